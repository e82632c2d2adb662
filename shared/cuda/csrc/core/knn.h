// Nearest neighbours within a set of points: the k smallest sum_d (x_id - x_jd)^2 over j != i, ties to the lower j;
// hep_shared.ops.knn.
//
// A tile of candidates and of lanes of points stays in registers over all dimensions. Every lane keeps its k nearest
// sorted; a candidate is inserted where it belongs, behind those that are as near.
#pragma once

#include "nearest.h"

namespace hepk {
inline namespace HEPK_ISA {

// Squared distances of kTile candidates from kLanes lanes of points. Dimension d of lane c lies at
// x[d stride + c width], that of candidate r at rows[r][d]. The last dimension may be an angle.
template <int kTile, int kLanes, class F, class T>
HK_HD void squared_distances(const T* x, int64_t stride, const T* const* rows, int32_t dims, T period,
                             F (&distance)[kTile][kLanes]) {
  HK_UNROLL
  for (int r = 0; r < kTile; ++r) {
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) distance[r][c] = F{};
  }
  const int32_t plain = period > 0 ? dims - 1 : dims;
  for (int32_t d = 0; d < plain; ++d) {
    F mine[kLanes];
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) mine[c] = read<F>(x + d * stride + c * lane<F>::width);
    HK_UNROLL
    for (int r = 0; r < kTile; ++r) {
      const F other = splat<F>(rows[r][d]);
      HK_UNROLL
      for (int c = 0; c < kLanes; ++c) {
        const F difference = mine[c] - other;
        distance[r][c] = distance[r][c] + difference * difference;
      }
    }
  }
  if (plain == dims) return;
  const F turn = splat<F>(period);
  HK_UNROLL
  for (int r = 0; r < kTile; ++r) {
    HK_UNROLL
    for (int c = 0; c < kLanes; ++c) {
      const F angle = read<F>(x + plain * stride + c * lane<F>::width) - splat<F>(rows[r][plain]);
      const F difference = angle - turn * nearest(angle / turn);
      distance[r][c] = distance[r][c] + difference * difference;
    }
  }
}

// Insert a candidate into the k nearest of a lane; entry s lies at best[s step] and found[s step]. The candidates come
// by increasing number, so one that is as near as another belongs behind it. What is not less than infinity stays out.
template <class F, class I>
HK_HD void insert(F distance, I candidate, F* best, I* found, int32_t k, int32_t step) {
  auto nearer = distance < best[(k - 1) * step];
  HK_UNROLL
  for (int32_t s = k - 1; s > 0; --s) {
    const F before = best[(s - 1) * step];
    const I found_before = found[(s - 1) * step];
    const auto nearer_before = distance < before;
    best[s * step] = nearer_before ? before : (nearer ? distance : best[s * step]);
    found[s * step] = nearer_before ? found_before : (nearer ? candidate : found[s * step]);
    nearer = nearer_before;
  }
  best[0] = nearer ? distance : best[0];
  found[0] = nearer ? candidate : found[0];
}

}  // namespace HEPK_ISA
}  // namespace hepk
