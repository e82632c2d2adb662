// Products of matrices with many rows, an item each: x W^T + b and a^T b, as they lie in memory; hep_shared.ops.linear
// and hep_shared.ops.transposed.
//
// A tile of the result stays in registers while its terms go by. A term is a lane of one matrix, which is read as it
// lies, times a number of the other, spread over a lane. So neither of the large matrices has to be turned around.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

// Rows and lanes of a tile of the result: as many sums as registers hold beside what is read.
constexpr int kTileRows = kRegisters >= 32 ? 8 : 6, kTileLanes = kRegisters >= 32 ? 3 : 2;

// Sum over the terms t of a[r a_row + t a_term] times the lane at b[t b_term + l width], for the rows r and lanes l of
// a tile; `finish(r, l, sum)` puts it where it belongs.
template <class F, int kRows, int kLanes, class T, class Finish>
HK_HD void product_tile(const T* a, int64_t a_row, int64_t a_term, const T* b, int64_t b_term, int64_t terms,
                        const Finish& finish) {
  F sum[kRows][kLanes];
  HK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HK_UNROLL
    for (int l = 0; l < kLanes; ++l) sum[r][l] = F{};
  }
  for (int64_t t = 0; t < terms; ++t) {
    F value[kLanes];
    HK_UNROLL
    for (int l = 0; l < kLanes; ++l) value[l] = read<F>(b + t * b_term + l * lane<F>::width);
    HK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F factor = splat<F>(a[r * a_row + t * a_term]);
      HK_UNROLL
      for (int l = 0; l < kLanes; ++l) sum[r][l] = sum[r][l] + factor * value[l];
    }
  }
  HK_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HK_UNROLL
    for (int l = 0; l < kLanes; ++l) finish(r, l, sum[r][l]);
  }
}

}  // namespace HEPK_ISA
}  // namespace hepk
