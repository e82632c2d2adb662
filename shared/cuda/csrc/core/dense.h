// A narrow multilayer perceptron for several lanes of rows at once: everything stays in registers and the first-level
// cache from the first layer to the last.
//
//   h_0 = row,    h_l = f(W_l h_(l-1) + b_l),    out = W_L h_(L-1) + b_L,    f = tanh, silu, relu or v / sqrt(1 + v^2)
#pragma once

#include "lanes.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

// exp(v) for |v| <= 80: v = n log 2 + r, Taylor's series of exp(r) for |r| <= log(2) / 2.
template <class F>
HK_HD F exponential(F v) {
  using T = typename lane<F>::scalar;
  const F n = nearest(v * splat<F>(T(1.4426950408889634)));
  const F r = v - n * splat<F>(T(0.693145751953125)) - n * splat<F>(T(1.42860682030941723e-6));
  constexpr int kTerms = sizeof(T) == 4 ? 7 : 13;
  // One over the factorials up to that of 13.
  constexpr double kSeries[] = {1.0,          1.0,           1.0 / 2,        1.0 / 6,         1.0 / 24,
                                1.0 / 120,    1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  F sum = splat<F>(T(kSeries[kTerms]));
  HK_UNROLL
  for (int k = kTerms - 1; k >= 0; --k) sum = sum * r + splat<F>(T(kSeries[k]));
  return sum * power_of_two(n);
}

template <class F>
HK_HD F bounded(F v, double limit) {
  using T = typename lane<F>::scalar;
  const F low = splat<F>(T(-limit)), high = splat<F>(T(limit));
  const F above = select(v < low, low, v);  // NaN stays
  return select(above > high, high, above);
}

template <class F>
HK_HD F hyperbolic_tangent(F v) {
  using T = typename lane<F>::scalar;
  const F one = splat<F>(T(1));
  return one - splat<F>(T(2)) / (exponential(bounded(v + v, 40.0)) + one);
}

template <class F, int count>
HK_HD void activate_all(F* values, Activation kind) {
  using T = typename lane<F>::scalar;
  const F one = splat<F>(T(1)), zero{};
  switch (kind) {
    case Activation::tanh:
      HK_UNROLL
      for (int k = 0; k < count; ++k) values[k] = hyperbolic_tangent(values[k]);
      break;
    case Activation::silu:
      HK_UNROLL
      for (int k = 0; k < count; ++k) values[k] = values[k] / (one + exponential(-bounded(values[k], 40.0)));
      break;
    case Activation::relu:
      HK_UNROLL
      for (int k = 0; k < count; ++k) values[k] = select(values[k] < zero, zero, values[k]);
      break;
    default:
      HK_UNROLL
      for (int k = 0; k < count; ++k) values[k] = values[k] * inverse_square_root(one + values[k] * values[k]);
  }
}

// `block` neurons from `o` on for `packs` lanes of rows, which share each weight: their sums stay in registers while the
// inputs are read once. Input i of pack p lies at in[i stride + p width], and neurons likewise at out.
template <class F, int packs, int block, class T>
HK_HD void neurons(const T* weights, const T* biases, int inputs, int o, const T* in, T* out, int stride,
                   const Activation* kind) {
  constexpr int kWidth = lane<F>::width;
  F sum[block][packs];
  HK_UNROLL
  for (int k = 0; k < block; ++k) {
    HK_UNROLL
    for (int p = 0; p < packs; ++p) sum[k][p] = splat<F>(biases[o + k]);
  }
  for (int i = 0; i < inputs; ++i) {
    F value[packs];
    HK_UNROLL
    for (int p = 0; p < packs; ++p) value[p] = read<F>(in + i * stride + p * kWidth);
    HK_UNROLL
    for (int k = 0; k < block; ++k) {
      const F weight = splat<F>(weights[(o + k) * inputs + i]);
      HK_UNROLL
      for (int p = 0; p < packs; ++p) sum[k][p] = sum[k][p] + weight * value[p];
    }
  }
  if (kind != nullptr) activate_all<F, block * packs>(&sum[0][0], *kind);
  HK_UNROLL
  for (int k = 0; k < block; ++k) {
    HK_UNROLL
    for (int p = 0; p < packs; ++p) write(sum[k][p], out + (o + k) * stride + p * kWidth);
  }
}

// From the inputs in `values` to the outputs, in `values` or in `next`; returns in which of the two.
template <class F, int packs, class T>
HK_HD T* dense(const Layers& net, const T* weights, T* values, T* next, int stride) {
  constexpr int kBlock = kRegisters >= 32 ? 8 : 4;
  for (int l = 0; l < net.num_layers; ++l) {
    const int inputs = net.sizes[l], outputs = net.sizes[l + 1];
    const T* biases = weights + inputs * outputs;
    const Activation* kind = l + 1 < net.num_layers ? &net.activation : nullptr;
    int o = 0;
    for (; o + kBlock <= outputs; o += kBlock) {
      neurons<F, packs, kBlock>(weights, biases, inputs, o, values, next, stride, kind);
    }
    if (kBlock > 4 && o + 4 <= outputs) {
      neurons<F, packs, 4>(weights, biases, inputs, o, values, next, stride, kind);
      o += 4;
    }
    for (; o < outputs; ++o) neurons<F, packs, 1>(weights, biases, inputs, o, values, next, stride, kind);
    T* done = next;
    next = values;
    values = done;
    weights = biases + outputs;
  }
  return values;
}

}  // namespace HEPK_ISA
}  // namespace hepk
