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
  F sum = splat<F>(T(1));
  for (int k = kTerms; k > 0; --k) sum = splat<F>(T(1)) + sum * r * splat<F>(T(1.0 / k));
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
HK_HD F activate(F v, Activation kind) {
  using T = typename lane<F>::scalar;
  const F one = splat<F>(T(1)), two = splat<F>(T(2));
  switch (kind) {
    case Activation::tanh:
      return one - two / (exponential(bounded(v + v, 40.0)) + one);
    case Activation::silu:
      return v / (one + exponential(-bounded(v, 40.0)));
    case Activation::relu:
      return select(v < splat<F>(T(0)), splat<F>(T(0)), v);
    default:
      return v * inverse_square_root(one + v * v);
  }
}

constexpr int kPacks = 2;  // lanes of rows that share each weight
template <class F>
using Activations = F[kMaxWidth][kPacks];

// `block` neurons from `o` on: their sums stay in registers while the inputs are read once.
template <class F, int block>
HK_HD void neurons(const typename lane<F>::scalar* weights, const typename lane<F>::scalar* biases, int inputs, int o,
                   const Activations<F>& in, Activations<F>& out) {
  F sum[block][kPacks];
  for (int k = 0; k < block; ++k) {
    for (int p = 0; p < kPacks; ++p) sum[k][p] = splat<F>(biases[o + k]);
  }
  for (int i = 0; i < inputs; ++i) {
    for (int k = 0; k < block; ++k) {
      for (int p = 0; p < kPacks; ++p) sum[k][p] = sum[k][p] + splat<F>(weights[(o + k) * inputs + i]) * in[i][p];
    }
  }
  for (int k = 0; k < block; ++k) {
    for (int p = 0; p < kPacks; ++p) out[o + k][p] = sum[k][p];
  }
}

// `values` holds the inputs and afterwards the outputs.
template <class F>
HK_HD void dense(const Layers& net, const typename lane<F>::scalar* weights, Activations<F>& values) {
  Activations<F> next;
  constexpr int kBlock = kRegisters >= 32 ? 8 : 4;
  for (int l = 0; l < net.num_layers; ++l) {
    const int inputs = net.sizes[l], outputs = net.sizes[l + 1];
    const auto* biases = weights + inputs * outputs;
    int o = 0;
    for (; o + kBlock <= outputs; o += kBlock) neurons<F, kBlock>(weights, biases, inputs, o, values, next);
    for (; o + 4 <= outputs; o += 4) neurons<F, 4>(weights, biases, inputs, o, values, next);
    for (; o < outputs; ++o) neurons<F, 1>(weights, biases, inputs, o, values, next);
    const bool last = l + 1 == net.num_layers;
    for (o = 0; o < outputs; ++o) {
      for (int p = 0; p < kPacks; ++p) values[o][p] = last ? next[o][p] : activate(next[o][p], net.activation);
    }
    weights = biases + outputs;
  }
}

}  // namespace HEPK_ISA
}  // namespace hepk
