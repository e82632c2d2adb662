// Products with the rows summed over, a^T b, of two tall matrices as they lie in memory; hep_shared.ops.transposed.
//
// Both matrices have one row an item, so a row of b is read as lanes and a number of a row of a is spread over one:
// neither has to be turned around first. A tile of the result stays in registers while a block of rows goes by, and
// the sums of blocks are added one after the other, which keeps rounding errors small.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

// Columns of a and lanes of columns of b in a tile: as many sums as registers hold beside what is read.
constexpr int kTileColumns = kRegisters >= 32 ? 8 : 6, kTileLanes = kRegisters >= 32 ? 3 : 2;

// Adds `rows` rows of a (columns a, a + 1, ...) and b (lanes from b on) to the tile at out. Strides are in numbers.
template <class F, int kColumns, int kLanes, class T>
HK_HD void product_tile(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t rows, T* out,
                        int64_t out_stride) {
  constexpr int kWidth = lane<F>::width;
  F sum[kColumns][kLanes];
  HK_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    HK_UNROLL
    for (int j = 0; j < kLanes; ++j) sum[i][j] = F{};
  }
  for (int64_t n = 0; n < rows; ++n) {
    F value[kLanes];
    HK_UNROLL
    for (int j = 0; j < kLanes; ++j) value[j] = read<F>(b + n * b_stride + j * kWidth);
    HK_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      const F factor = splat<F>(a[n * a_stride + i]);
      HK_UNROLL
      for (int j = 0; j < kLanes; ++j) sum[i][j] = sum[i][j] + factor * value[j];
    }
  }
  HK_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    HK_UNROLL
    for (int j = 0; j < kLanes; ++j) {
      T* at = out + i * out_stride + j * kWidth;
      write(read<F>(at) + sum[i][j], at);
    }
  }
}

}  // namespace HEPK_ISA
}  // namespace hepk
