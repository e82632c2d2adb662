// Operators for CUDA tensors, on the current stream of their device.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <utility>

#include "ops.h"

namespace {

using torch::stable::Tensor;

struct Cuda {
  static const char* name() { return "GPU"; }
  static bool owns(const Tensor& tensor) { return tensor.is_cuda(); }

  template <class T>
  static void field(const Tensor& rows, const hepk::Grid& grid, const T* points, T* out) {
    launch(rows, [&](void* stream) { return hepk::cuda_field<T>(grid, points, out, rows.size(0), stream); });
  }

  template <class T>
  static void pullback(const Tensor& rows, const hepk::Grid& grid, const T* points, const T* grad, T* out) {
    launch(rows, [&](void* stream) { return hepk::cuda_pullback<T>(grid, points, grad, out, rows.size(0), stream); });
  }

  template <class T>
  static void propagate(const Tensor& rows, const hepk::Grid& grid, const T* state, const T* z, const T* dz, T* out,
                        int num_steps, bool nystroem) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_propagate<T>(grid, state, z, dz, out, num_steps, nystroem, rows.size(0), stream);
    });
  }

  template <class T>
  static void propagate_adaptive(const Tensor& rows, const hepk::Grid& grid, const T* state, const T* z, const T* dz,
                                 T* out, const hepk::StepControl& control) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_propagate_adaptive<T>(grid, state, z, dz, out, control, rows.size(0), stream);
    });
  }

  template <class T>
  static void narrow_mlp(const Tensor& rows, const hepk::Layers& net, const T* in, const T* weights, T* out) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_narrow_mlp<T>(net, in, weights, out, rows.size(0), stream);
    });
  }

  template <class T>
  static void equi_linear(const Tensor& rows, const T* x, const T* weight, const T* bias, T* y, int32_t inputs,
                          int32_t outputs) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_equi_linear<T>(x, weight, bias, y, inputs, outputs, rows.size(0), stream);
    });
  }

  template <class T>
  static void equi_gradient(const Tensor& rows, const T* x, const T* grad, T* out, int32_t inputs, int32_t outputs) {
    const int64_t num_rows = rows.size(0), most = 128, wanted = (num_rows + 15) / 16;
    const int64_t parts = wanted < most ? wanted : most;
    Tensor scratch = torch::stable::new_empty(rows, {parts, outputs, inputs, 2 * hepk::kComponents});
    launch(rows, [&](void* stream) {
      return hepk::cuda_equi_gradient<T>(x, grad, static_cast<T*>(scratch.mutable_data_ptr()), out, inputs, outputs,
                                         static_cast<int32_t>(parts), num_rows, stream);
    });
  }

  template <class T>
  static void pair_features(const Tensor& rows, const int64_t* first, const int64_t* second, const T* scales,
                            const double* directions, T* out, int64_t particles, double floor, double delta_floor) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_pair_features<T>(first, second, scales, directions, out, particles, floor, delta_floor,
                                         rows.size(0), stream);
    });
  }

  template <class T>
  static void tokens(const Tensor& rows, const hepk::EventBins& bins, const T* features, const T* missing,
                     const int8_t* ids, int64_t* out, int32_t objects) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_tokens<T>(bins, features, missing, ids, out, objects, rows.size(0), stream);
    });
  }

  template <class T>
  static void nearest(const Tensor& rows, const T* vectors, const T* codes, const T* half_norms, int64_t* out,
                      int32_t dims, int32_t num_codes) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_nearest<T>(vectors, codes, half_norms, out, dims, num_codes, rows.size(0), stream);
    });
  }

  template <class T>
  static void knn(const Tensor& rows, const hepk::PointSets& sets, const T* points, const bool* valid, int64_t* out) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_knn<T>(sets, points, valid, out, rows.size(0) * sets.slots, stream);
    });
  }

  template <class T>
  static void hex(const Tensor& x, const hepk::HexShape& shape, const T* features, const int64_t* table,
                  const T* weight, const T* bias, const T* gamma, const T* beta, T* out) {
    launch(x, [&](void* stream) {
      return hepk::cuda_hex<T>(shape, features, table, weight, bias, gamma, beta, out, x.size(0), stream);
    });
  }

  template <class T>
  static void edge_message(const Tensor& rows, const hepk::EdgeLists& lists, const T* own, const T* other,
                           const int64_t* source, const int64_t* first, T* out) {
    launch(rows, [&](void* stream) {
      return hepk::cuda_edge_message<T>(lists, own, other, source, first, out, stream);
    });
  }

  template <class T>
  static void hex_pullback(const Tensor& x, const hepk::HexShape& shape, const T* features, const T* grad,
                           const int64_t* table, const T* weight, const T* bias, const T* gamma, T* of_x,
                           T* of_parameters) {
    const Tensor norms = torch::stable::new_empty(x, {x.size(0), x.size(1), 4});
    const Tensor partial = torch::stable::new_empty(x, {x.size(0), hepk::kHexRows, x.size(2)});
    launch(x, [&](void* stream) {
      return hepk::cuda_hex_pullback<T>(shape, features, grad, table, weight, bias, gamma, of_x, of_parameters,
                                        static_cast<T*>(norms.mutable_data_ptr()),
                                        static_cast<T*>(partial.mutable_data_ptr()), x.size(0), stream);
    });
  }

 private:
  template <class Launcher>
  static void launch(const Tensor& rows, Launcher&& launcher) {
    const auto device = static_cast<int32_t>(rows.get_device_index());
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    const int error = launcher(stream);
    STD_TORCH_CHECK(error == 0, "a kernel of hep-shared-cuda could not start: ", hepk::cuda_error(error));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hep, CUDA, m) {
  m.impl("field_lookup", TORCH_BOX(&hepk::field_lookup<Cuda>));
  m.impl("field_pullback", TORCH_BOX(&hepk::field_pullback<Cuda>));
  m.impl("propagate", TORCH_BOX(&hepk::propagate<Cuda>));
  m.impl("propagate_adaptive", TORCH_BOX(&hepk::propagate_adaptive<Cuda>));
  m.impl("narrow_mlp", TORCH_BOX(&hepk::narrow_mlp<Cuda>));
  m.impl("equi_linear", TORCH_BOX(&hepk::equi_linear<Cuda>));
  m.impl("equi_linear_gradient", TORCH_BOX(&hepk::equi_linear_gradient<Cuda>));
  m.impl("pair_features", TORCH_BOX(&hepk::pair_features<Cuda>));
  m.impl("event_tokens", TORCH_BOX(&hepk::event_tokens<Cuda>));
  m.impl("nearest_code", TORCH_BOX(&hepk::nearest_code<Cuda>));
  m.impl("knn", TORCH_BOX(&hepk::knn<Cuda>));
  m.impl("hex_conv_norm", TORCH_BOX(&hepk::hex_conv_norm<Cuda>));
  m.impl("hex_conv_norm_pullback", TORCH_BOX(&hepk::hex_conv_norm_pullback<Cuda>));
  m.impl("edge_message", TORCH_BOX(&hepk::edge_message<Cuda>));
}
