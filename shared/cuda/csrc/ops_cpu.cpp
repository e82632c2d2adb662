// Operators for CPU tensors: the instruction set is chosen at run time, rows are shared out among torch's threads.
#include <cstdlib>
#include <cstring>

#include "ops.h"

namespace {

using torch::stable::Tensor;

// HEP_SHARED_ISA=scalar|avx2|avx512 forces one, for tests; null for a name that is unknown or more than the machine
// has. The features asked for are those of the compiler flags in CMakeLists.txt.
const hepk::Table* choose() {
  const char* asked = std::getenv("HEP_SHARED_ISA");
  const auto wanted = [asked](const hepk::Table& table) {
    return asked == nullptr || *asked == '\0' || std::strcmp(asked, table.name) == 0;
  };
#if defined(HEPK_X86)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && wanted(hepk::table_avx512)) return &hepk::table_avx512;
  if (avx2 && wanted(hepk::table_avx2)) return &hepk::table_avx2;
#endif
  return wanted(hepk::table_scalar) ? &hepk::table_scalar : nullptr;
}

const hepk::Table* chosen() {
  static const hepk::Table* table = choose();
  return table;
}

template <class T>
const hepk::Kernels<T>& kernels() {
  STD_TORCH_CHECK(chosen() != nullptr, "HEP_SHARED_ISA is none of scalar, avx2, avx512 or more than this machine has");
  if constexpr (sizeof(T) == 4) {
    return chosen()->f32;
  } else {
    return chosen()->f64;
  }
}

constexpr int64_t kGrain = 256;  // rows a thread takes at least; a multiple of every lane width

struct Cpu {
  static const char* name() { return "CPU"; }
  static bool owns(const Tensor& tensor) { return tensor.is_cpu(); }

  template <class T>
  static void field(const Tensor& rows, const hepk::Grid& grid, const T* points, T* out) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.field(grid, points, out, begin, end);
    });
  }

  template <class T>
  static void pullback(const Tensor& rows, const hepk::Grid& grid, const T* points, const T* grad, T* out) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.pullback(grid, points, grad, out, begin, end);
    });
  }

  template <class T>
  static void propagate(const Tensor& rows, const hepk::Grid& grid, const T* state, const T* z, const T* dz, T* out,
                        int num_steps, bool nystroem) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.propagate(grid, state, z, dz, out, num_steps, nystroem, begin, end);
    });
  }

  template <class T>
  static void propagate_adaptive(const Tensor& rows, const hepk::Grid& grid, const T* state, const T* z, const T* dz,
                                 T* out, const hepk::StepControl& control) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.propagate_adaptive(grid, state, z, dz, out, control, begin, end);
    });
  }

  template <class T>
  static void narrow_mlp(const Tensor& rows, const hepk::Layers& net, const T* in, const T* weights, T* out) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.narrow_mlp(net, in, weights, out, begin, end);
    });
  }

  template <class T>
  static void equi_linear(const Tensor& rows, const T* x, const T* weight, const T* bias, T* y, int32_t inputs,
                          int32_t outputs) {
    const auto& kernel = kernels<T>();
    const int64_t pairs = int64_t{inputs} * outputs;
    Tensor scratch = torch::stable::new_empty(rows, {pairs, 2 * hepk::kComponents});
    T* wide = static_cast<T*>(scratch.mutable_data_ptr());
    kernel.equi_widen(weight, wide, pairs);
    torch::stable::parallel_for(0, rows.size(0), kGrain / 4, [&](int64_t begin, int64_t end) {
      kernel.equi_linear(x, wide, bias, y, inputs, outputs, begin, end);
    });
  }

  // The number of parts does not depend on the number of threads, so neither does the sum.
  template <class T>
  static void equi_gradient(const Tensor& rows, const T* x, const T* grad, T* out, int32_t inputs, int32_t outputs) {
    const auto& kernel = kernels<T>();
    const int64_t num_rows = rows.size(0), pairs = int64_t{inputs} * outputs;
    const int64_t most = 16, wanted = (num_rows + kGrain - 1) / kGrain;
    const int64_t parts = wanted < most ? wanted : most, step = (num_rows + parts - 1) / parts;
    Tensor scratch = torch::stable::new_empty(rows, {parts, pairs, 2 * hepk::kComponents});
    T* wide = static_cast<T*>(scratch.mutable_data_ptr());
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t end = (part + 1) * step < num_rows ? (part + 1) * step : num_rows;
        const int64_t begin = part * step < end ? part * step : end;
        kernel.equi_gradient(x, grad, wide + part * pairs * 2 * hepk::kComponents, inputs, outputs, begin, end);
      }
    });
    kernel.equi_fold(wide, out, static_cast<int32_t>(parts), pairs);
  }

  template <class T>
  static void pair_features(const Tensor& rows, const int64_t* first, const int64_t* second, const T* scales,
                            const double* directions, T* out, int64_t particles, double floor, double delta_floor) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.pair_features(first, second, scales, directions, out, particles, floor, delta_floor, begin, end);
    });
  }

  template <class T>
  static void tokens(const Tensor& rows, const hepk::EventBins& bins, const T* features, const T* missing,
                     const int8_t* ids, int64_t* out, int32_t objects) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.tokens(bins, features, missing, ids, out, objects, begin, end);
    });
  }

  template <class T>
  static void nearest(const Tensor& rows, const T* vectors, const T* codes, const T* half_norms, int64_t* out,
                      int32_t dims, int32_t num_codes) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, rows.size(0), kGrain, [&](int64_t begin, int64_t end) {
      kernel.nearest(vectors, codes, half_norms, out, dims, num_codes, begin, end);
    });
  }

  template <class T>
  static void knn(const Tensor& rows, const hepk::PointSets& sets, const T* points, const bool* valid, int64_t* out) {
    const auto& kernel = kernels<T>();
    const int64_t grain = sets.slots < kGrain ? kGrain / sets.slots : 1;  // sets
    torch::stable::parallel_for(0, rows.size(0), grain, [&](int64_t begin, int64_t end) {
      kernel.knn(sets, points, valid, out, begin, end);
    });
  }

  template <class T>
  static void hex(const Tensor& x, const hepk::HexShape& shape, const T* features, const int64_t* table,
                  const T* weight, const T* bias, const T* gamma, const T* beta, T* out) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, x.size(0), 4, [&](int64_t begin, int64_t end) {
      kernel.hex(shape, features, table, weight, bias, gamma, beta, out, begin, end);
    });
  }

  // Gradients of the parameters are summed group by group, so that the result does not depend on the threads.
  template <class T>
  static void hex_pullback(const Tensor& x, const hepk::HexShape& shape, const T* features, const T* grad,
                           const int64_t* table, const T* weight, const T* bias, const T* gamma, T* of_x,
                           T* of_parameters) {
    constexpr int64_t kGroup = 8;  // events
    const auto& kernel = kernels<T>();
    const int64_t events = x.size(0), groups = (events + kGroup - 1) / kGroup, size = hepk::kHexRows * x.size(2);
    const Tensor partial = torch::stable::new_empty(x, {groups, size});
    T* sums = static_cast<T*>(partial.mutable_data_ptr());
    torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t first = group * kGroup, last = first + kGroup < events ? first + kGroup : events;
        kernel.hex_pullback(shape, features, grad, table, weight, bias, gamma, of_x, sums + group * size, first, last);
      }
    });
    for (int64_t i = 0; i < size; ++i) of_parameters[i] = sums[i];
    for (int64_t group = 1; group < groups; ++group) {
      for (int64_t i = 0; i < size; ++i) of_parameters[i] += sums[group * size + i];
    }
  }

  // Threads share the columns of a: each sum is one thread's.
  template <class T>
  static void transposed_product(const T* a, const T* b, T* out, int64_t rows, int64_t inputs, int64_t outputs) {
    constexpr int64_t kTile = 24;  // columns; a multiple of those in a tile of every instruction set
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, (inputs + kTile - 1) / kTile, 1, [&](int64_t begin, int64_t end) {
      kernel.transposed_product(a, b, out, rows, inputs, outputs, begin * kTile,
                                end * kTile < inputs ? end * kTile : inputs);
    });
  }

  template <class T>
  static void linear(const Tensor& x, const Tensor& weight, const T* rows, const T* from, const T* bias, T* y,
                     T slope) {
    const auto& kernel = kernels<T>();
    const int64_t inputs = weight.size(1), outputs = weight.size(0);
    Tensor scratch = torch::stable::new_empty(x, {inputs * kernel.linear_width(outputs)});
    T* wide = static_cast<T*>(scratch.mutable_data_ptr());
    kernel.linear_widen(from, weight.stride(0), weight.stride(1), wide, inputs, outputs);
    torch::stable::parallel_for(0, x.size(0), kGrain / 4, [&](int64_t begin, int64_t end) {
      kernel.linear(rows, wide, bias, y, slope, inputs, outputs, begin, end);
    });
  }

  template <class T>
  static void edge_message(const Tensor&, const hepk::EdgeLists& lists, const T* own, const T* other,
                           const int64_t* source, const int64_t* first, T* out) {
    const auto& kernel = kernels<T>();
    torch::stable::parallel_for(0, lists.rows, kGrain, [&](int64_t begin, int64_t end) {
      kernel.edge_message(lists, own, other, source, first, out, begin, end);
    });
  }

  // Threads share the channels: any edge may lead to any row.
  template <class T>
  static void edge_pullback(const hepk::EdgeLists& lists, const T* grad, const T* message, const int64_t* source,
                            const int64_t* first, T* of_own, T* of_other) {
    constexpr int32_t kGroup = 32;
    const auto& kernel = kernels<T>();
    const int32_t channels = lists.channels;
    torch::stable::parallel_for(0, (channels + kGroup - 1) / kGroup, 1, [&](int64_t begin, int64_t end) {
      const auto first_channel = static_cast<int32_t>(begin * kGroup), last = static_cast<int32_t>(end * kGroup);
      kernel.edge_pullback(lists, grad, message, source, first, of_own, of_other, first_channel,
                           last < channels ? last : channels);
    });
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hep, CPU, m) {
  m.impl("field_lookup", TORCH_BOX(&hepk::field_lookup<Cpu>));
  m.impl("field_pullback", TORCH_BOX(&hepk::field_pullback<Cpu>));
  m.impl("propagate", TORCH_BOX(&hepk::propagate<Cpu>));
  m.impl("propagate_adaptive", TORCH_BOX(&hepk::propagate_adaptive<Cpu>));
  m.impl("narrow_mlp", TORCH_BOX(&hepk::narrow_mlp<Cpu>));
  m.impl("equi_linear", TORCH_BOX(&hepk::equi_linear<Cpu>));
  m.impl("equi_linear_gradient", TORCH_BOX(&hepk::equi_linear_gradient<Cpu>));
  m.impl("pair_features", TORCH_BOX(&hepk::pair_features<Cpu>));
  m.impl("event_tokens", TORCH_BOX(&hepk::event_tokens<Cpu>));
  m.impl("nearest_code", TORCH_BOX(&hepk::nearest_code<Cpu>));
  m.impl("knn", TORCH_BOX(&hepk::knn<Cpu>));
  m.impl("hex_conv_norm", TORCH_BOX(&hepk::hex_conv_norm<Cpu>));
  m.impl("hex_conv_norm_pullback", TORCH_BOX(&hepk::hex_conv_norm_pullback<Cpu>));
  m.impl("transposed_product", TORCH_BOX(&hepk::transposed_product<Cpu>));
  m.impl("linear", TORCH_BOX(&hepk::linear<Cpu>));
  m.impl("edge_message", TORCH_BOX(&hepk::edge_message<Cpu>));
  m.impl("edge_message_pullback", TORCH_BOX(&hepk::edge_message_pullback<Cpu>));
}

// Which instruction set serves; null where HEP_SHARED_ISA asks for one that cannot.
extern "C" __attribute__((visibility("default"))) const char* hepk_isa() {
  return chosen() == nullptr ? nullptr : chosen()->name;
}
