// CUDA: one thread a row, the arithmetic of core/ with a lane of one number. No torch headers, which would cost
// half a minute of compilation.
#include <cuda_runtime.h>

#include "core/adaptive.h"
#include "core/hex.h"
#include "core/knn.h"
#include "core/nearest.h"
#include "core/propagate.h"
#include "core/table.h"
#include "core/tokens.h"

namespace hepk {
namespace {

constexpr int kThreads = 128;

int blocks(int64_t rows) { return static_cast<int>((rows + kThreads - 1) / kThreads); }

__device__ int64_t this_row() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

template <class T>
__device__ Vec3<T> load3(const T* __restrict__ rows, int64_t n) {
  return {rows[3 * n], rows[3 * n + 1], rows[3 * n + 2]};
}

template <class T>
__device__ void store3(const Vec3<T>& value, T* __restrict__ rows, int64_t n) {
  rows[3 * n] = value.x;
  rows[3 * n + 1] = value.y;
  rows[3 * n + 2] = value.z;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    field_kernel(FieldMap<T> map, const T* __restrict__ points, T* __restrict__ out, int64_t rows) {
  const int64_t n = this_row();
  if (n < rows) store3(field_at(map, load3(points, n)), out, n);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pullback_kernel(FieldMap<T> map, const T* __restrict__ points, const T* __restrict__ grad, T* __restrict__ out,
                    int64_t rows) {
  const int64_t n = this_row();
  if (n < rows) store3(pull_back(map, load3(points, n), load3(grad, n)), out, n);
}

template <class T, bool nystroem>
__global__ void __launch_bounds__(kThreads)
    propagate_kernel(FieldMap<T> map, const T* __restrict__ state, const T* __restrict__ z, const T* __restrict__ dz,
                     T* __restrict__ out, int num_steps, int64_t rows) {
  const int64_t n = this_row();
  if (n >= rows) return;
  const T* in = state + 5 * n;
  State<T> s{in[0], in[1], in[2], in[3]};
  const T curvature = in[4] * static_cast<T>(kCurvature);
  s = nystroem ? rkn4(map, s, curvature, z[n], dz[n], num_steps) : rk4(map, s, curvature, z[n], dz[n], num_steps);
  T* result = out + 5 * n;
  result[0] = s.x;
  result[1] = s.y;
  result[2] = s.tx;
  result[3] = s.ty;
  result[4] = in[4];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    adaptive_kernel(FieldMap<T> map, const T* __restrict__ state, const T* __restrict__ z, const T* __restrict__ dz,
                    T* __restrict__ out, StepControl control, int64_t rows) {
  const int64_t n = this_row();
  if (n >= rows) return;
  const T* in = state + 5 * n;
  const State<T> start{in[0], in[1], in[2], in[3]};
  const State<T> s = cash_karp(map, start, in[4] * static_cast<T>(kCurvature), z[n], dz[n], control);
  T* result = out + 5 * n;
  result[0] = s.x;
  result[1] = s.y;
  result[2] = s.tx;
  result[3] = s.ty;
  result[4] = in[4];
}

// One thread an object, and one more for the missing momentum of the event.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tokens_kernel(ColumnLanes<T> of_objects, ColumnLanes<T> of_missing, int32_t id_weight, int32_t first_met,
                  int32_t first_met_phi, const T* __restrict__ features, const T* __restrict__ missing,
                  const int8_t* __restrict__ ids, int64_t* __restrict__ out, int32_t objects, int64_t rows) {
  const int64_t n = this_row(), row = n / (objects + 1);
  const int32_t i = static_cast<int32_t>(n - row * (objects + 1));
  if (row >= rows) return;
  int64_t* tokens = out + row * (objects + 2);
  if (i == objects) {
    tokens[i] = first_met + of_missing.passed(missing[2 * row], 0);
    tokens[i + 1] = first_met_phi + of_missing.passed(missing[2 * row + 1], 1);
    return;
  }
  const int64_t object = row * objects + i;
  int32_t passed = 0;
  for (int column = 0; column < 4; ++column) passed += of_objects.passed(features[4 * object + column], column);
  tokens[i] = object_token(passed, ids[object], id_weight);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    nearest_kernel(const T* __restrict__ vectors, const T* __restrict__ codes, const T* __restrict__ half_norms,
                   int64_t* __restrict__ out, int32_t dims, int32_t num_codes, int64_t rows) {
  const int64_t n = this_row();
  if (n >= rows) return;
  T best;
  int32_t found;
  try_all<8, 1>(vectors + n * dims, 1, codes, half_norms, dims, num_codes, &best, &found);
  out[n] = found;
}

// One thread a point; its neighbours stay in registers, kMost or fewer of them.
template <class T, int kMost>
__global__ void __launch_bounds__(kThreads)
    knn_kernel(PointSets sets, const T* __restrict__ points, const bool* __restrict__ valid,
               int64_t* __restrict__ out, int64_t rows) {
  const int64_t n = this_row();
  if (n >= rows) return;
  const int64_t set = n / sets.slots * sets.slots;
  T best[kMost];
  int32_t found[kMost];
  HK_UNROLL
  for (int s = 0; s < kMost; ++s) {
    best[s] = static_cast<T>(HUGE_VAL);
    found[s] = -1;
  }
  const T* mine = points + n * sets.dims;
  for (int32_t j = 0; valid[n] && j < sets.slots; ++j) {
    if (set + j == n || !valid[set + j]) continue;
    const T* rows_of_tile[1] = {points + (set + j) * sets.dims};
    T distance[1][1];
    squared_distances<1, 1>(mine, 1, rows_of_tile, sets.dims, static_cast<T>(sets.period), distance);
    insert(distance[0][0], j, best, found, kMost, 1);
  }
  HK_UNROLL
  for (int s = 0; s < kMost; ++s) {
    if (s < sets.num_neighbors) out[n * sets.num_neighbors + s] = found[s];
  }
}

// Features of an absent neighbour.
__device__ double absent[kMaxChannels];

constexpr int kWarp = 32, kWarps = kThreads / kWarp;

template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  return value;
}

template <class T>
__device__ void neighbors_of(const T* x, const int64_t* table, const HexShape& shape, int64_t n, const T** from) {
  HK_UNROLL
  for (int t = 0; t < kDirections; ++t) {
    const int64_t m = neighbor(table, shape.nodes, n, t);
    from[t] = m < shape.nodes ? x + m * shape.channels : reinterpret_cast<const T*>(absent);
  }
}

// One warp a node: the sums y of its channels into `row`, and their norm.
template <class T>
__device__ NormOfNode<T> hex_row(const HexShape& shape, const T* const* from, const T* weight, const T* bias, T* row) {
  const int lane_of_warp = threadIdx.x % kWarp;
  NormOfNode<T> norm{0, 0, 0, 0};
  for (int32_t c = lane_of_warp; c < shape.channels; c += kWarp) {
    T features[kDirections];
    HK_UNROLL
    for (int t = 0; t < kDirections; ++t) features[t] = from[t][c];
    row[c] = Stencil<T>(weight, bias, shape.channels, c).sum(features);
    norm.centre += row[c];
  }
  norm.centre = warp_sum(norm.centre) / shape.channels;
  T squares = 0;
  for (int32_t c = lane_of_warp; c < shape.channels; c += kWarp) {
    squares += (row[c] - norm.centre) * (row[c] - norm.centre);
  }
  norm.set_variance(warp_sum(squares) / shape.channels, shape.eps);
  return norm;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    hex_kernel(HexShape shape, const T* __restrict__ x, const int64_t* __restrict__ table,
               const T* __restrict__ weight, const T* __restrict__ bias, const T* __restrict__ gamma,
               const T* __restrict__ beta, T* __restrict__ out, int64_t rows) {
  __shared__ T sums[kWarps][kMaxChannels];
  const int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (r >= rows) return;
  const int64_t event = r / shape.nodes;
  const T* from[kDirections];
  neighbors_of(x + event * shape.nodes * shape.channels, table, shape, r - event * shape.nodes, from);
  T* row = sums[threadIdx.x / kWarp];
  const NormOfNode<T> norm = hex_row(shape, from, weight, bias, row);
  for (int32_t c = threadIdx.x % kWarp; c < shape.channels; c += kWarp) {
    out[r * shape.channels + c] = norm.normal(row[c]) * gamma[c] + beta[c];
  }
}

// What the gradient needs to know of the norm of every node.
template <class T>
__global__ void __launch_bounds__(kThreads)
    hex_norms_kernel(HexShape shape, const T* __restrict__ x, const T* __restrict__ grad,
                     const int64_t* __restrict__ table, const T* __restrict__ weight, const T* __restrict__ bias,
                     const T* __restrict__ gamma, T* __restrict__ norms, int64_t rows) {
  __shared__ T sums[kWarps][kMaxChannels];
  const int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (r >= rows) return;
  const int64_t event = r / shape.nodes;
  const T* from[kDirections];
  neighbors_of(x + event * shape.nodes * shape.channels, table, shape, r - event * shape.nodes, from);
  T* row = sums[threadIdx.x / kWarp];
  NormOfNode<T> norm = hex_row(shape, from, weight, bias, row);
  for (int32_t c = threadIdx.x % kWarp; c < shape.channels; c += kWarp) {
    const T h = grad[r * shape.channels + c] * gamma[c];
    norm.mean_h += h;
    norm.mean_hy += h * norm.normal(row[c]);
  }
  norm.mean_h = warp_sum(norm.mean_h) / shape.channels;
  norm.mean_hy = warp_sum(norm.mean_hy) / shape.channels;
  if (threadIdx.x % kWarp == 0) {
    T* found = norms + 4 * r;
    found[0] = norm.centre;
    found[1] = norm.rstd;
    found[2] = norm.mean_h;
    found[3] = norm.mean_hy;
  }
}

// One thread a channel of an event, which no other thread writes to: the order of the sums is fixed.
template <class T>
__global__ void __launch_bounds__(kThreads)
    hex_pullback_kernel(HexShape shape, const T* __restrict__ x, const T* __restrict__ grad,
                        const int64_t* __restrict__ table, const T* __restrict__ weight, const T* __restrict__ bias,
                        const T* __restrict__ gamma, const T* __restrict__ norms, T* of_x, T* __restrict__ partial,
                        int64_t events) {
  const int64_t i = this_row(), event = i / shape.channels;
  if (event >= events) return;
  const int32_t c = static_cast<int32_t>(i - event * shape.channels);
  const int64_t first = event * shape.nodes * shape.channels;
  const T* mine = x + first + c;
  const Stencil<T> stencil(weight, bias, shape.channels, c);
  const T scale = gamma[c];
  T sums[kHexRows] = {};
  for (int32_t n = 0; n < shape.nodes; ++n) of_x[first + n * shape.channels + c] = 0;
#pragma unroll 1
  for (int32_t n = 0; n < shape.nodes; ++n) {
    T features[kDirections];
    HK_UNROLL
    for (int t = 0; t < kDirections; ++t) {
      const int64_t m = neighbor(table, shape.nodes, n, t);
      features[t] = m < shape.nodes ? mine[m * shape.channels] : T{};
    }
    const T* found = norms + 4 * (event * shape.nodes + n);
    const NormOfNode<T> norm{found[0], found[1], found[2], found[3]};
    const T normal = norm.normal(stencil.sum(features));
    const T of_z = grad[first + n * shape.channels + c], of_y = norm.pull_back(normal, of_z * scale);
    HK_UNROLL
    for (int t = 0; t < kDirections; ++t) {
      sums[t] += features[t] * of_y;
      const int64_t m = neighbor(table, shape.nodes, n, t);
      if (m < shape.nodes) of_x[first + m * shape.channels + c] += stencil.weight[t] * of_y;
    }
    sums[kDirections] += of_y;
    sums[kDirections + 1] += of_z * normal;
    sums[kDirections + 2] += of_z;
  }
  HK_UNROLL
  for (int k = 0; k < kHexRows; ++k) partial[(event * kHexRows + k) * shape.channels + c] = sums[k];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    hex_sum_kernel(const T* __restrict__ partial, T* __restrict__ out, int64_t events, int64_t size) {
  const int64_t i = this_row();
  if (i >= size) return;
  T sum = 0;
  for (int64_t e = 0; e < events; ++e) sum += partial[e * size + i];
  out[i] = sum;
}

}  // namespace

template <class T>
int cuda_field(const Grid& grid, const T* points, T* field, int64_t rows, void* stream) {
  const FieldMap<T> map(grid);
  field_kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(map, points, field, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_pullback(const Grid& grid, const T* points, const T* grad, T* out, int64_t rows, void* stream) {
  const FieldMap<T> map(grid);
  pullback_kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(map, points, grad, out, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_propagate(const Grid& grid, const T* state, const T* z, const T* dz, T* out, int num_steps, bool nystroem,
                   int64_t rows, void* stream) {
  const FieldMap<T> map(grid);
  const auto kernel = nystroem ? propagate_kernel<T, true> : propagate_kernel<T, false>;
  kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(map, state, z, dz, out, num_steps, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_propagate_adaptive(const Grid& grid, const T* state, const T* z, const T* dz, T* out,
                            const StepControl& control, int64_t rows, void* stream) {
  const FieldMap<T> map(grid);
  adaptive_kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(map, state, z, dz, out, control,
                                                                                    rows);
  return cudaGetLastError();
}

template <class T>
int cuda_tokens(const EventBins& bins, const T* features, const T* missing, const int8_t* ids, int64_t* tokens,
                int32_t objects, int64_t rows, void* stream) {
  tokens_kernel<T><<<blocks(rows * (objects + 1)), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      ColumnLanes<T>(bins.objects), ColumnLanes<T>(bins.missing), bins.id_weight, bins.first_met, bins.first_met_phi,
      features, missing, ids, tokens, objects, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_nearest(const T* vectors, const T* codes, const T* half_norms, int64_t* nearest, int32_t dims,
                 int32_t num_codes, int64_t rows, void* stream) {
  nearest_kernel<T><<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(vectors, codes, half_norms,
                                                                                    nearest, dims, num_codes, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_knn(const PointSets& sets, const T* points, const bool* valid, int64_t* neighbors, int64_t rows,
             void* stream) {
  const auto kernel = sets.num_neighbors <= 8    ? knn_kernel<T, 8>
                      : sets.num_neighbors <= 16 ? knn_kernel<T, 16>
                                                 : knn_kernel<T, kMaxNeighbors>;
  kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(sets, points, valid, neighbors, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_hex(const HexShape& shape, const T* x, const int64_t* table, const T* weight, const T* bias, const T* gamma,
             const T* beta, T* out, int64_t events, void* stream) {
  const int64_t rows = events * shape.nodes;
  hex_kernel<T><<<blocks(rows * kWarp), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(shape, x, table, weight, bias,
                                                                                       gamma, beta, out, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_hex_pullback(const HexShape& shape, const T* x, const T* grad, const int64_t* table, const T* weight,
                      const T* bias, const T* gamma, T* of_x, T* of_parameters, T* norms, T* partial, int64_t events,
                      void* stream) {
  const int64_t rows = events * shape.nodes, size = int64_t{kHexRows} * shape.channels;
  const auto queue = static_cast<cudaStream_t>(stream);
  hex_norms_kernel<T>
      <<<blocks(rows * kWarp), kThreads, 0, queue>>>(shape, x, grad, table, weight, bias, gamma, norms, rows);
  hex_pullback_kernel<T><<<blocks(events * shape.channels), kThreads, 0, queue>>>(
      shape, x, grad, table, weight, bias, gamma, norms, of_x, partial, events);
  hex_sum_kernel<T><<<blocks(size), kThreads, 0, queue>>>(partial, of_parameters, events, size);
  return cudaGetLastError();
}

const char* cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

template int cuda_field(const Grid&, const float*, float*, int64_t, void*);
template int cuda_field(const Grid&, const double*, double*, int64_t, void*);
template int cuda_pullback(const Grid&, const float*, const float*, float*, int64_t, void*);
template int cuda_pullback(const Grid&, const double*, const double*, double*, int64_t, void*);
template int cuda_propagate(const Grid&, const float*, const float*, const float*, float*, int, bool, int64_t, void*);
template int cuda_propagate(const Grid&, const double*, const double*, const double*, double*, int, bool, int64_t,
                            void*);

template int cuda_propagate_adaptive(const Grid&, const float*, const float*, const float*, float*, const StepControl&,
                                     int64_t, void*);
template int cuda_propagate_adaptive(const Grid&, const double*, const double*, const double*, double*,
                                     const StepControl&, int64_t, void*);
template int cuda_tokens(const EventBins&, const float*, const float*, const int8_t*, int64_t*, int32_t, int64_t,
                         void*);
template int cuda_tokens(const EventBins&, const double*, const double*, const int8_t*, int64_t*, int32_t, int64_t,
                         void*);
template int cuda_nearest(const float*, const float*, const float*, int64_t*, int32_t, int32_t, int64_t, void*);
template int cuda_nearest(const double*, const double*, const double*, int64_t*, int32_t, int32_t, int64_t, void*);
template int cuda_knn(const PointSets&, const float*, const bool*, int64_t*, int64_t, void*);
template int cuda_knn(const PointSets&, const double*, const bool*, int64_t*, int64_t, void*);
template int cuda_hex(const HexShape&, const float*, const int64_t*, const float*, const float*, const float*,
                      const float*, float*, int64_t, void*);
template int cuda_hex(const HexShape&, const double*, const int64_t*, const double*, const double*, const double*,
                      const double*, double*, int64_t, void*);
template int cuda_hex_pullback(const HexShape&, const float*, const float*, const int64_t*, const float*, const float*,
                               const float*, float*, float*, float*, float*, int64_t, void*);
template int cuda_hex_pullback(const HexShape&, const double*, const double*, const int64_t*, const double*,
                               const double*, const double*, double*, double*, double*, double*, int64_t, void*);

}  // namespace hepk
