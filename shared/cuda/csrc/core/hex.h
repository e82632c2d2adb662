// Depthwise convolution over a node and its six neighbours, then a normalisation over the channels; hep_shared.ops.hex.
//
// A lane holds neighbouring channels of one node.
#pragma once

#include "nearest.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

// Node that is the neighbour, or `nodes` where there is none.
HK_HD int64_t neighbor(const int64_t* table, int32_t nodes, int64_t n, int t) {
  const int64_t m = table[n * kHexDirections + t];
  return m >= 0 && m < nodes ? m : nodes;
}

// y = bias + sum_t weight_t x_t at the channels from c on.
template <class F>
struct Stencil {
  F weight[kHexDirections], bias;

  template <class T>
  HK_HD Stencil(const T* weights, const T* biases, int32_t channels, int32_t c) : bias(read<F>(biases + c)) {
    HK_UNROLL
    for (int t = 0; t < kHexDirections; ++t) weight[t] = read<F>(weights + t * channels + c);
  }

  // The features of the neighbours at these channels, zeros where there is none.
  HK_HD F sum(const F (&features)[kHexDirections]) const {
    F y = bias;
    HK_UNROLL
    for (int t = 0; t < kHexDirections; ++t) y = y + weight[t] * features[t];
    return y;
  }
};

// Mean and 1 / sqrt(variance + eps) of y over the channels; with h = gamma times the gradient, the means of h and of
// h y', where y' = (y - centre) rstd.
template <class T>
struct NormOfNode {
  T centre, rstd, mean_h, mean_hy;

  HK_HD void set_variance(T variance, double eps) { rstd = 1 / square_root(variance + static_cast<T>(eps)); }

  template <class F>
  HK_HD F normal(F y) const {
    return (y - splat<F>(centre)) * splat<F>(rstd);
  }
  // Gradient of y.
  template <class F>
  HK_HD F pull_back(F normal, F h) const {
    return splat<F>(rstd) * (h - splat<F>(mean_h) - normal * splat<F>(mean_hy));
  }
};

}  // namespace HEPK_ISA
}  // namespace hepk
