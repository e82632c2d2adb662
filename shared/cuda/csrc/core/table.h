// What a kernel library offers: plain pointers, no torch. ops.h checks the arguments before they come here.
#pragma once

#include <cstdint>

namespace hepk {

// A regular grid of vectors, any layout: node (ix, iy, iz), component c lies at ix sx + iy sy + iz sz + c sc.
struct Grid {
  const void* data;      // float or double like the other arguments
  int32_t nodes[3];      // at least 2 on each axis
  int32_t stride[4];     // of x, y, z and the component, in numbers; every offset fits into 31 bits
  double origin[3];      // of node (0, 0, 0)
  double inv_spacing[3];
};

// Limits of an adaptive step: lengths in mm along z.
struct StepControl {
  double tolerance, slope_tolerance;  // of x and y (mm), and of tx and ty, in a step
  double min_step, max_step;
  int32_t max_trials;
};

// Layers of a narrow network; the weights lie one layer after the other, matrix (out, in) and bias (out,).
constexpr int kMaxWidth = 64, kMaxLayers = 8;
enum class Activation : int32_t { tanh, silu, relu, isru };
struct Layers {
  int32_t num_layers;
  int32_t sizes[kMaxLayers + 1];  // inputs, widths of the hidden layers, outputs
  Activation activation;          // between the layers
};

// CPU: rows `begin` to `end` (excluded) of every array; the caller shares them out among threads.
template <class T>
struct Kernels {
  // points (N, 3) -> field (N, 3)
  void (*field)(const Grid& grid, const T* points, T* field, int64_t begin, int64_t end);
  // points (N, 3), grad (N, 3) -> sum over components of grad times the gradient of that component (N, 3)
  void (*pullback)(const Grid& grid, const T* points, const T* grad, T* out, int64_t begin, int64_t end);
  // state (N, 5) [x y tx ty q/p], z (N,), dz (N,) -> out (N, 5)
  void (*propagate)(const Grid& grid, const T* state, const T* z, const T* dz, T* out, int num_steps, bool nystroem,
                    int64_t begin, int64_t end);
  void (*propagate_adaptive)(const Grid& grid, const T* state, const T* z, const T* dz, T* out,
                             const StepControl& control, int64_t begin, int64_t end);
  // rows (N, first size) -> out (N, last size)
  void (*narrow_mlp)(const Layers& net, const T* rows, const T* weights, T* out, int64_t begin, int64_t end);
};

struct Table {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

extern const Table table_scalar;
#if defined(HEPK_X86)
extern const Table table_avx2;
extern const Table table_avx512;
#endif

// CUDA: all rows on a stream; 0 or a cudaError_t, which `cuda_error` puts into words.
template <class T>
int cuda_field(const Grid& grid, const T* points, T* field, int64_t rows, void* stream);
template <class T>
int cuda_pullback(const Grid& grid, const T* points, const T* grad, T* out, int64_t rows, void* stream);
template <class T>
int cuda_propagate(const Grid& grid, const T* state, const T* z, const T* dz, T* out, int num_steps, bool nystroem,
                   int64_t rows, void* stream);
template <class T>
int cuda_propagate_adaptive(const Grid& grid, const T* state, const T* z, const T* dz, T* out,
                            const StepControl& control, int64_t rows, void* stream);
const char* cuda_error(int error);

}  // namespace hepk
