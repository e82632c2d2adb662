// Lorentz-equivariant linear map between multivectors of 16 components in grades of 1, 4, 6, 4 and 1:
//
//   y[o, k] = b[o] [k = 0] + sum_i w[o, i, g(k)] x[i, k] + s_k w[o, i, 9 - g(k)] x[i, 15 - k],
//
// g(k) the grade and s_k the sign of the product with the pseudoscalar; hep_shared.ops.equilinear.
//
// Lanes hold neighbouring components, which lie side by side in memory: sixteen floats are one AVX-512 register. A tile
// of rows and of channels stays in registers while the sum runs, so each number that is read serves several products.
#pragma once

#include "lanes.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

HK_HD int grade_of(int k) { return (k >= 1) + (k >= 5) + (k >= 11) + (k >= 15); }
HK_HD int dual_sign(int k) { return (0x12b7 >> k) & 1 ? -1 : 1; }

// Coefficients of neighbouring components from k on, laid out for lanes: for each pair of channels sixteen that
// multiply x[i, k] and sixteen that multiply x[i, 15 - k].
template <class T>
struct WideCoefficients {
  const T* wide;
  int32_t inputs;

  template <class F>
  HK_HD void get(int32_t o, int32_t i, int k, F& direct, F& dual) const {
    const T* at = wide + (int64_t{o} * inputs + i) * 2 * kComponents + k;
    direct = read<F>(at);
    dual = read<F>(at + kComponents);
  }
};

template <class T>
HK_HD void widen(const T* weight, T* wide) {
  for (int k = 0; k < kComponents; ++k) {
    wide[k] = weight[grade_of(k)];
    wide[kComponents + k] = static_cast<T>(dual_sign(k)) * weight[kCoefficients - 1 - grade_of(k)];
  }
}

// Coefficients of one component as they are stored.
template <class T>
struct StoredCoefficients {
  const T* weight;
  int32_t inputs;

  HK_HD void get(int32_t o, int32_t i, int k, T& direct, T& dual) const {
    const T* at = weight + (int64_t{o} * inputs + i) * kCoefficients;
    direct = at[grade_of(k)];
    dual = static_cast<T>(dual_sign(k)) * at[kCoefficients - 1 - grade_of(k)];
  }
};

// Components from k on of kRows rows of `x` and `y`, channels o to o + kOut.
template <class F, int kRows, int kOut, class Coefficients, class T>
HK_HD void map_tile(const T* x, const Coefficients& coefficients, const T* bias, T* y, int32_t inputs, int32_t outputs,
                    int32_t o, int k) {
  const int mirrored = kComponents - lane<F>::width - k;
  F sum[kRows][kOut];
  HK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HK_UNROLL
    for (int q = 0; q < kOut; ++q) sum[r][q] = F{};
  }
  for (int32_t i = 0; i < inputs; ++i) {
    F same[kRows], other[kRows];
    HK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const T* in = x + (int64_t{r} * inputs + i) * kComponents;
      same[r] = read<F>(in + k);
      other[r] = reversed(read<F>(in + mirrored));
    }
    HK_UNROLL
    for (int q = 0; q < kOut; ++q) {
      F direct, dual;
      coefficients.get(o + q, i, k, direct, dual);
      HK_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sum[r][q] = sum[r][q] + direct * same[r];
        sum[r][q] = sum[r][q] + dual * other[r];
      }
    }
  }
  HK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HK_UNROLL
    for (int q = 0; q < kOut; ++q) {
      T* out = y + (int64_t{r} * outputs + o + q) * kComponents + k;
      write(sum[r][q], out);
      if (k == 0) out[0] = out[0] + bias[o + q];
    }
  }
}

// What the coefficients of channels o to o + kOut and i to i + kIn have from `rows` rows, for components from k on:
// sums of grad[o, k] x[i, k] and of grad[o, k] x[i, 15 - k], added to `wide` in the layout of WideCoefficients.
template <class F, int kOut, int kIn, class T>
HK_HD void gradient_tile(const T* x, const T* grad, T* wide, int32_t inputs, int32_t outputs, int64_t rows, int32_t o,
                         int32_t i, int k) {
  const int mirrored = kComponents - lane<F>::width - k;
  F direct[kOut][kIn], dual[kOut][kIn];
  HK_UNROLL
  for (int q = 0; q < kOut; ++q) {
    HK_UNROLL
    for (int j = 0; j < kIn; ++j) direct[q][j] = dual[q][j] = F{};
  }
  for (int64_t n = 0; n < rows; ++n) {
    const T* in = x + (n * inputs + i) * kComponents;
    const T* slope = grad + (n * outputs + o) * kComponents + k;
    F g[kOut];
    HK_UNROLL
    for (int q = 0; q < kOut; ++q) g[q] = read<F>(slope + q * kComponents);
    HK_UNROLL
    for (int j = 0; j < kIn; ++j) {
      const F same = read<F>(in + j * kComponents + k), other = reversed(read<F>(in + j * kComponents + mirrored));
      HK_UNROLL
      for (int q = 0; q < kOut; ++q) {
        direct[q][j] = direct[q][j] + g[q] * same;
        dual[q][j] = dual[q][j] + g[q] * other;
      }
    }
  }
  HK_UNROLL
  for (int q = 0; q < kOut; ++q) {
    HK_UNROLL
    for (int j = 0; j < kIn; ++j) {
      T* at = wide + (int64_t{o + q} * inputs + i + j) * 2 * kComponents + k;
      write(read<F>(at) + direct[q][j], at);
      write(read<F>(at + kComponents) + dual[q][j], at + kComponents);
    }
  }
}

// From sums over rows of one pair of channels to the gradient of its ten coefficients.
template <class T>
HK_HD T folded(const T* wide, int coefficient) {
  const bool dual = coefficient >= kCoefficients / 2;
  const int grade = dual ? kCoefficients - 1 - coefficient : coefficient;
  T sum = 0;
  for (int k = 0; k < kComponents; ++k) {
    if (grade_of(k) == grade) sum += dual ? static_cast<T>(dual_sign(k)) * wide[kComponents + k] : wide[k];
  }
  return sum;
}

}  // namespace HEPK_ISA
}  // namespace hepk
