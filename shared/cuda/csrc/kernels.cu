// CUDA: one thread a row, the arithmetic of core/ with a lane of one number. No torch headers, which would cost
// half a minute of compilation.
#include <cuda_runtime.h>

#include "core/adaptive.h"
#include "core/dense.h"
#include "core/edges.h"
#include "core/equilinear.h"
#include "core/hex.h"
#include "core/knn.h"
#include "core/nearest.h"
#include "core/pairs.h"
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

// One thread a row; the numbers of a layer lie in shared memory, one column a thread, and all threads of a warp read the
// same weight at once.
template <class T, int threads>
__global__ void __launch_bounds__(threads)
    narrow_mlp_kernel(Layers net, const T* __restrict__ rows, const T* __restrict__ weights, T* __restrict__ out,
                      int64_t num_rows) {
  __shared__ T first[kMaxWidth * threads], second[kMaxWidth * threads];
  const int64_t n = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (n >= num_rows) return;
  const int inputs = net.sizes[0], outputs = net.sizes[net.num_layers];
  T* values = first + threadIdx.x;
  for (int i = 0; i < inputs; ++i) values[i * threads] = rows[n * inputs + i];
  const T* results = dense<T, 1>(net, weights, values, second + threadIdx.x, threads);
  for (int i = 0; i < outputs; ++i) out[n * outputs + i] = results[i * threads];
}

// One thread for one component of a tile of four rows and four channels; sixteen neighbouring threads read the sixteen
// components of a multivector together.
template <class T, int kRows>
__device__ void equi_rows(const T* __restrict__ x, const StoredCoefficients<T>& coefficients,
                          const T* __restrict__ bias, T* __restrict__ y, int32_t outputs, int32_t o, int k) {
  const int32_t inputs = coefficients.inputs;
  if (o + 4 <= outputs) {
    map_tile<T, kRows, 4>(x, coefficients, bias, y, inputs, outputs, o, k);
  } else {
    for (; o < outputs; ++o) map_tile<T, kRows, 1>(x, coefficients, bias, y, inputs, outputs, o, k);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    equi_linear_kernel(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                       T* __restrict__ y, int32_t inputs, int32_t outputs, int64_t rows) {
  const int k = static_cast<int>(threadIdx.x % kComponents);
  const int64_t tile = this_row() / kComponents, tiles = (outputs + 3) / 4;
  const int32_t o = static_cast<int32_t>(tile % tiles) * 4;
  const int64_t n = tile / tiles * 4;
  const StoredCoefficients<T> coefficients{weight, inputs};
  const T* in = x + n * inputs * kComponents;
  T* out = y + n * outputs * kComponents;
  if (n + 4 <= rows) {
    equi_rows<T, 4>(in, coefficients, bias, out, outputs, o, k);
  } else {
    for (int64_t r = 0; n + r < rows; ++r) {
      equi_rows<T, 1>(in + r * inputs * kComponents, coefficients, bias, out + r * outputs * kComponents, outputs, o,
                      k);
    }
  }
}

// One thread for one component of a tile of four channels out and two in, over one part of the rows.
template <class T>
__global__ void __launch_bounds__(kThreads)
    equi_gradient_kernel(const T* __restrict__ x, const T* __restrict__ grad, T* __restrict__ wide, int32_t inputs,
                         int32_t outputs, int32_t parts, int64_t rows) {
  const int k = static_cast<int>(threadIdx.x % kComponents);
  const int64_t tile = this_row() / kComponents, tiles_in = (inputs + 1) / 2, tiles_out = (outputs + 3) / 4;
  const int64_t part = tile / (tiles_in * tiles_out), step = (rows + parts - 1) / parts, begin = part * step;
  if (part >= parts) return;
  const int64_t left = rows - begin, count = left < step ? left : step;
  const int32_t i = static_cast<int32_t>(tile % tiles_in) * 2;
  const int32_t o = static_cast<int32_t>(tile / tiles_in % tiles_out) * 4;
  const T* in = x + begin * inputs * kComponents;
  const T* slope = grad + begin * outputs * kComponents;
  T* sums = wide + part * inputs * outputs * 2 * kComponents;
  if (o + 4 <= outputs && i + 2 <= inputs) {
    gradient_tile<T, 4, 2>(in, slope, sums, inputs, outputs, count, o, i, k);
    return;
  }
  for (int32_t q = o; q < o + 4 && q < outputs; ++q) {
    for (int32_t j = i; j < i + 2 && j < inputs; ++j) {
      gradient_tile<T, 1, 1>(in, slope, sums, inputs, outputs, count, q, j, k);
    }
  }
}

// 32 threads for one pair of channels: one sums a component over the parts, ten of them make the coefficients.
template <class T>
__global__ void __launch_bounds__(kThreads)
    equi_fold_kernel(const T* __restrict__ wide, T* __restrict__ out, int32_t parts, int64_t pairs) {
  constexpr int kWide = 2 * kComponents;
  __shared__ T sums[kThreads];
  const int64_t n = this_row(), pair = n / kWide;
  T sum = 0;
  if (pair < pairs) {
    for (int32_t part = 0; part < parts; ++part) sum += wide[part * pairs * kWide + n];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x % kWide);
  if (pair < pairs && c < kCoefficients) {
    out[pair * kCoefficients + c] = folded(sums + threadIdx.x / kWide * kWide, c);
  }
}

template <class T>
__device__ Particle<T> load_particle(const T* __restrict__ scales, const double* __restrict__ directions, int64_t n) {
  Particle<T> result;
  for (int c = 0; c < kScales; ++c) result.scales[c] = scales[n * kScales + c];
  for (int c = 0; c < kDirections; ++c) result.directions[c][0] = directions[n * kDirections + c];
  return result;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pair_features_kernel(const int64_t* __restrict__ first, const int64_t* __restrict__ second,
                         const T* __restrict__ scales, const double* __restrict__ directions, T* __restrict__ out,
                         int64_t particles, double floor, double delta_floor, int64_t rows) {
  const int64_t n = this_row();
  if (n >= rows) return;
  const int64_t i = first[n], j = second[n];
  const bool exists = i >= 0 && i < particles && j >= 0 && j < particles;
  const Particle<T> a = load_particle(scales, directions, exists ? i : 0);
  const Particle<T> b = load_particle(scales, directions, exists ? j : 0);
  const PairFeatures<T> found = pair_features<T>(a, b, floor, delta_floor);
  const T none = static_cast<T>(NAN);
  out[4 * n] = exists ? found.log_kt : none;
  out[4 * n + 1] = exists ? found.log_z : none;
  out[4 * n + 2] = exists ? found.log_delta : none;
  out[4 * n + 3] = exists ? found.log_mass2 : none;
}

// One thread a channel of a row, over the edges of the row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    edge_message_kernel(EdgeLists lists, const T* __restrict__ own, const T* __restrict__ other,
                        const int64_t* __restrict__ source, const int64_t* __restrict__ first, T* __restrict__ out) {
  const int64_t n = this_row(), row = n / lists.channels, c = n - row * lists.channels;
  if (row >= lists.rows) return;
  const EdgesOfRow edges(first, row, lists.edges);
  for (int64_t e = edges.begin; e < edges.end; ++e) {
    const int64_t from = source[e];
    const bool exists = from >= 0 && from < lists.sources;
    const T z = own[n] + other[(exists ? from : 0) * lists.channels + c];
    out[e * lists.channels + c] = exists ? leaky(z, static_cast<T>(lists.slope)) : static_cast<T>(NAN);
  }
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
__device__ double absent[kMaxHexChannels];

constexpr int kWarp = 32, kWarps = kThreads / kWarp;

template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  return value;
}

template <class T>
__device__ void neighbors_of(const T* x, const int64_t* table, const HexShape& shape, int64_t n, const T** from) {
  HK_UNROLL
  for (int t = 0; t < kHexDirections; ++t) {
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
    T features[kHexDirections];
    HK_UNROLL
    for (int t = 0; t < kHexDirections; ++t) features[t] = from[t][c];
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
  __shared__ T sums[kWarps][kMaxHexChannels];
  const int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (r >= rows) return;
  const int64_t event = r / shape.nodes;
  const T* from[kHexDirections];
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
  __shared__ T sums[kWarps][kMaxHexChannels];
  const int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (r >= rows) return;
  const int64_t event = r / shape.nodes;
  const T* from[kHexDirections];
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
    T features[kHexDirections];
    HK_UNROLL
    for (int t = 0; t < kHexDirections; ++t) {
      const int64_t m = neighbor(table, shape.nodes, n, t);
      features[t] = m < shape.nodes ? mine[m * shape.channels] : T{};
    }
    const T* found = norms + 4 * (event * shape.nodes + n);
    const NormOfNode<T> norm{found[0], found[1], found[2], found[3]};
    const T normal = norm.normal(stencil.sum(features));
    const T of_z = grad[first + n * shape.channels + c], of_y = norm.pull_back(normal, of_z * scale);
    HK_UNROLL
    for (int t = 0; t < kHexDirections; ++t) {
      sums[t] += features[t] * of_y;
      const int64_t m = neighbor(table, shape.nodes, n, t);
      if (m < shape.nodes) of_x[first + m * shape.channels + c] += stencil.weight[t] * of_y;
    }
    sums[kHexDirections] += of_y;
    sums[kHexDirections + 1] += of_z * normal;
    sums[kHexDirections + 2] += of_z;
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
int cuda_narrow_mlp(const Layers& net, const T* rows, const T* weights, T* out, int64_t num_rows, void* stream) {
  constexpr int threads = 256 / sizeof(T);  // 32 KiB of shared memory
  const auto grid = static_cast<unsigned>((num_rows + threads - 1) / threads);
  narrow_mlp_kernel<T, threads><<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(net, rows, weights, out,
                                                                                       num_rows);
  return cudaGetLastError();
}

template <class T>
int cuda_equi_linear(const T* x, const T* weight, const T* bias, T* y, int32_t inputs, int32_t outputs, int64_t rows,
                     void* stream) {
  const int64_t threads = (rows + 3) / 4 * ((outputs + 3) / 4) * kComponents;
  equi_linear_kernel<<<blocks(threads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, weight, bias, y, inputs,
                                                                                        outputs, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_equi_gradient(const T* x, const T* grad, T* wide, T* out, int32_t inputs, int32_t outputs, int32_t parts,
                       int64_t rows, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t pairs = int64_t{inputs} * outputs, tiles = int64_t{(inputs + 1) / 2} * ((outputs + 3) / 4);
  const size_t bytes = sizeof(T) * 2 * kComponents * static_cast<size_t>(pairs) * static_cast<size_t>(parts);
  const cudaError_t cleared = cudaMemsetAsync(wide, 0, bytes, queue);
  if (cleared != cudaSuccess) return cleared;
  equi_gradient_kernel<<<blocks(parts * tiles * kComponents), kThreads, 0, queue>>>(x, grad, wide, inputs, outputs,
                                                                                  parts, rows);
  equi_fold_kernel<<<blocks(pairs * 2 * kComponents), kThreads, 0, queue>>>(wide, out, parts, pairs);
  return cudaGetLastError();
}

template <class T>
int cuda_pair_features(const int64_t* first, const int64_t* second, const T* scales, const double* directions, T* out,
                       int64_t particles, double floor, double delta_floor, int64_t rows, void* stream) {
  pair_features_kernel<<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      first, second, scales, directions, out, particles, floor, delta_floor, rows);
  return cudaGetLastError();
}

template <class T>
int cuda_edge_message(const EdgeLists& lists, const T* own, const T* other, const int64_t* source,
                      const int64_t* first, T* out, void* stream) {
  edge_message_kernel<<<blocks(lists.rows * lists.channels), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      lists, own, other, source, first, out);
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
template int cuda_narrow_mlp(const Layers&, const float*, const float*, float*, int64_t, void*);
template int cuda_narrow_mlp(const Layers&, const double*, const double*, double*, int64_t, void*);
template int cuda_equi_linear(const float*, const float*, const float*, float*, int32_t, int32_t, int64_t, void*);
template int cuda_equi_linear(const double*, const double*, const double*, double*, int32_t, int32_t, int64_t, void*);
template int cuda_equi_gradient(const float*, const float*, float*, float*, int32_t, int32_t, int32_t, int64_t, void*);
template int cuda_equi_gradient(const double*, const double*, double*, double*, int32_t, int32_t, int32_t, int64_t,
                                void*);
template int cuda_pair_features(const int64_t*, const int64_t*, const float*, const double*, float*, int64_t, double,
                                double, int64_t, void*);
template int cuda_pair_features(const int64_t*, const int64_t*, const double*, const double*, double*, int64_t, double,
                                double, int64_t, void*);
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
template int cuda_edge_message(const EdgeLists&, const float*, const float*, const int64_t*, const int64_t*, float*,
                               void*);
template int cuda_edge_message(const EdgeLists&, const double*, const double*, const int64_t*, const int64_t*, double*,
                               void*);

}  // namespace hepk
