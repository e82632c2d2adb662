// Nearest code: argmin over codes e of |e|^2 / 2 - z.e, ties to the lowest index; hep_shared.ops.nearest.
//
// A tile of codes and of lanes of vectors stays in registers over all dimensions: each number that is read serves
// several products. The scores of a tile are compared at once, so no table of distances is written.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

// Keep the larger score and its code. A score that is not a number counts as the largest, as in torch.argmin.
template <class F, class I>
HK_HD void keep_better(F score, F& best, I& nearest, int32_t code) {
  if constexpr (lane<F>::width == 1) {
    const bool better = !(score <= best) && best == best;
    best = better ? score : best;
    nearest = better ? code : nearest;
  } else {
    const I better = ~(score <= best) & (best == best);
    best = better ? score : best;
    nearest = better ? I{} + code : nearest;
  }
}

// Codes `first` to `first + kCodes` for kLanes lanes of vectors. Dimension d of lane c lies at x[d stride + c width].
template <int kCodes, int kLanes, class F, class I, class T>
HK_HD void try_codes(const T* x, int64_t stride, const T* codes, const T* half_norms, int32_t dims, int32_t first,
                     F* best, I* nearest) {
  F score[kCodes][kLanes];
  HK_UNROLL
  for (int r = 0; r < kCodes; ++r) {
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) score[r][c] = splat<F>(-half_norms[first + r]);
  }
  const T* rows = codes + int64_t{first} * dims;
  for (int32_t d = 0; d < dims; ++d) {
    F z[kLanes];
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) z[c] = read<F>(x + d * stride + c * lane<F>::width);
    HK_UNROLL
    for (int r = 0; r < kCodes; ++r) {
      const F e = splat<F>(rows[int64_t{r} * dims + d]);
      HK_UNROLL
      for (int c = 0; c < kLanes; ++c) score[r][c] = score[r][c] + z[c] * e;
    }
  }
  HK_UNROLL
  for (int r = 0; r < kCodes; ++r) {
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) keep_better(score[r][c], best[c], nearest[c], first + r);
  }
}

// All codes, eight or four at a time.
template <int kCodes, int kLanes, class F, class I, class T>
HK_HD void try_all(const T* x, int64_t stride, const T* codes, const T* half_norms, int32_t dims, int32_t num_codes,
                   F* best, I* nearest) {
  for (int c = 0; c < kLanes; ++c) {
    best[c] = splat<F>(static_cast<T>(-HUGE_VAL));
    nearest[c] = I{};
  }
  int32_t first = 0;
  for (; first + kCodes <= num_codes; first += kCodes) {
    try_codes<kCodes, kLanes>(x, stride, codes, half_norms, dims, first, best, nearest);
  }
  for (; first < num_codes; ++first) {
    try_codes<1, kLanes>(x, stride, codes, half_norms, dims, first, best, nearest);
  }
}

}  // namespace HEPK_ISA
}  // namespace hepk
