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

constexpr int kComponents = 16, kCoefficients = 10;  // of a multivector, and of a linear map between two of them
constexpr int64_t kMaxChannels = 4096;

constexpr int kScales = 5, kDirections = 4;  // of a particle, for pairs: see pairs.h

constexpr int kMaxEdges = 15;
constexpr int kMaxObjects = 1024;  // of an event
constexpr int kNumIds = 7;         // kinds of object

// Edges of the columns of rows of four numbers, and what a passed edge adds to a token.
struct Columns {
  double edges[kMaxEdges][4];  // by number; NaN where a column has fewer, which nothing passes
  int32_t weight[4];
  int32_t num_edges;
  bool folded[4];  // compare the absolute value
  bool any_folded;
};

// Two events make a row of `missing`: twice its absolute value and azimuth.
struct EventBins {
  Columns objects, missing;
  int32_t id_weight, first_met, first_met_phi;
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

// Sets of points among which neighbours are sought.
constexpr int kMaxNeighbors = 32;
struct PointSets {
  int32_t slots, dims;    // of a set, and of a point
  int32_t num_neighbors;  // 1 <= num_neighbors <= kMaxNeighbors
  double period;          // of the last dimension; 0 where it is no angle
};

// Nodes of a hexagonal lattice with their channels; directions are the node itself and its six neighbours.
constexpr int kHexDirections = 7, kMaxHexChannels = 1024;
constexpr int kHexRows = kHexDirections + 3;  // gradients of the weights, the bias, gamma and beta
struct HexShape {
  int32_t nodes, channels;
  double eps;  // of the normalisation
};

// Edges of a graph, listed row after row; every edge comes from one of `sources` rows.
constexpr int64_t kMaxEdgeChannels = 1 << 20;
struct EdgeLists {
  int64_t rows, edges, sources;
  int32_t channels;
  double slope;  // of LeakyReLU below zero
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
  // weight (O, I, 10) -> the layout that `equi_linear` reads, (O, I, 32)
  void (*equi_widen)(const T* weight, T* wide, int64_t pairs);
  // x (N, I, 16), wide coefficients (O, I, 32), bias (O,) -> y (N, O, 16)
  void (*equi_linear)(const T* x, const T* wide, const T* bias, T* y, int32_t inputs, int32_t outputs, int64_t begin,
                      int64_t end);
  // x (N, I, 16), grad (N, O, 16) -> what rows begin to end add to the gradient of the coefficients, (O, I, 32)
  void (*equi_gradient)(const T* x, const T* grad, T* wide, int32_t inputs, int32_t outputs, int64_t begin,
                        int64_t end);
  // wide (parts, pairs, 32) -> sum over the parts in the layout of the weight (pairs, 10)
  void (*equi_fold)(const T* wide, T* out, int32_t parts, int64_t pairs);
  // first, second (P,), scales (M, 5), directions (M, 4) -> features (P, 4); NaN where an index is not below M
  void (*pair_features)(const int64_t* first, const int64_t* second, const T* scales, const double* directions,
                        T* out, int64_t particles, double floor, double delta_floor, int64_t begin, int64_t end);
  // features (N, P, 4), missing (N, 2), ids (N, P) -> tokens (N, P + 2); 1 <= P <= kMaxObjects
  void (*tokens)(const EventBins& bins, const T* features, const T* missing, const int8_t* ids, int64_t* tokens,
                 int32_t objects, int64_t begin, int64_t end);
  // vectors (N, D), codes (K, D), half of their squared norms (K,) -> index of the nearest code (N,); K >= 1
  void (*nearest)(const T* vectors, const T* codes, const T* half_norms, int64_t* nearest, int32_t dims,
                  int32_t num_codes, int64_t begin, int64_t end);
  // points (N, P, D), valid (N, P) -> slots of the neighbours, -1 for none (N, P, K)
  void (*knn)(const PointSets& sets, const T* points, const bool* valid, int64_t* neighbors, int64_t begin,
              int64_t end);
  // x (B, N, C), table (N, 7), weight (7, C), bias, gamma, beta (C,) -> out (B, N, C); rows are events
  void (*hex)(const HexShape& shape, const T* x, const int64_t* table, const T* weight, const T* bias, const T* gamma,
              const T* beta, T* out, int64_t begin, int64_t end);
  // grad (B, N, C) -> gradient of x (B, N, C), and of the parameters (kHexRows, C), summed over events begin to end
  void (*hex_pullback)(const HexShape& shape, const T* x, const T* grad, const int64_t* table, const T* weight,
                       const T* bias, const T* gamma, T* of_x, T* of_parameters, int64_t begin, int64_t end);
  // a (N, I), b (N, O) -> rows begin to end of a^T b (I, O)
  void (*transposed_product)(const T* a, const T* b, T* out, int64_t rows, int64_t inputs, int64_t outputs,
                             int64_t begin, int64_t end);
  // own (R, C), other (V, C), source (E,), first (R + 1,) -> messages of the edges of rows begin to end, (E, C)
  void (*edge_message)(const EdgeLists& lists, const T* own, const T* other, const int64_t* source,
                       const int64_t* first, T* out, int64_t begin, int64_t end);
  // grad, message (E, C) -> channels begin to end of the gradients of own (R, C) and of other (V, C)
  void (*edge_pullback)(const EdgeLists& lists, const T* grad, const T* message, const int64_t* source,
                        const int64_t* first, T* of_own, T* of_other, int32_t begin, int32_t end);
  // O, or a few more to fill up lanes
  int64_t (*linear_width)(int64_t outputs);
  // weight (O, I) with these strides -> the layout that `linear` reads, I times as many numbers as `linear_width` says
  void (*linear_widen)(const T* weight, int64_t output_stride, int64_t input_stride, T* wide, int64_t inputs,
                       int64_t outputs);
  // x (N, I), wide weight, bias (O,) -> y (N, O) through LeakyReLU
  void (*linear)(const T* x, const T* wide, const T* bias, T* y, T slope, int64_t inputs, int64_t outputs,
                 int64_t begin, int64_t end);
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
template <class T>
int cuda_narrow_mlp(const Layers& net, const T* rows, const T* weights, T* out, int64_t num_rows, void* stream);
template <class T>
int cuda_equi_linear(const T* x, const T* weight, const T* bias, T* y, int32_t inputs, int32_t outputs, int64_t rows,
                     void* stream);
// `wide` has room for `parts` parts of (O, I, 32)
template <class T>
int cuda_equi_gradient(const T* x, const T* grad, T* wide, T* out, int32_t inputs, int32_t outputs, int32_t parts,
                       int64_t rows, void* stream);
template <class T>
int cuda_pair_features(const int64_t* first, const int64_t* second, const T* scales, const double* directions, T* out,
                       int64_t particles, double floor, double delta_floor, int64_t rows, void* stream);
template <class T>
int cuda_tokens(const EventBins& bins, const T* features, const T* missing, const int8_t* ids, int64_t* tokens,
                int32_t objects, int64_t rows, void* stream);
template <class T>
int cuda_nearest(const T* vectors, const T* codes, const T* half_norms, int64_t* nearest, int32_t dims,
                 int32_t num_codes, int64_t rows, void* stream);
template <class T>
int cuda_knn(const PointSets& sets, const T* points, const bool* valid, int64_t* neighbors, int64_t rows,
             void* stream);
template <class T>
int cuda_hex(const HexShape& shape, const T* x, const int64_t* table, const T* weight, const T* bias, const T* gamma,
             const T* beta, T* out, int64_t events, void* stream);
// `norms`: four numbers a node to work with; `partial` (B, kHexRows, C) likewise.
template <class T>
int cuda_hex_pullback(const HexShape& shape, const T* x, const T* grad, const int64_t* table, const T* weight,
                      const T* bias, const T* gamma, T* of_x, T* of_parameters, T* norms, T* partial, int64_t events,
                      void* stream);
template <class T>
int cuda_edge_message(const EdgeLists& lists, const T* own, const T* other, const int64_t* source,
                      const int64_t* first, T* out, void* stream);
const char* cuda_error(int error);

}  // namespace hepk
