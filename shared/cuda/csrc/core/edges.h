// Messages along the edges of a graph: the sum of what two nodes say, through LeakyReLU; hep_shared.ops.edges.
//
// A lane holds neighbouring channels. The edges of a node follow one another, so that its own part stays at hand.
#pragma once

#include "lanes.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

// Edges of row `row`, from `begin` to `end`: within the list, whatever the tensor says.
struct EdgesOfRow {
  int64_t begin, end;

  HK_HD EdgesOfRow(const int64_t* first, int64_t row, int64_t num_edges)
      : begin(inside(first[row], 0, num_edges)), end(inside(first[row + 1], begin, num_edges)) {}

  HK_HD static int64_t inside(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
  }
};

template <class F>
HK_HD F leaky(F z, F slope) {
  return select(z > F{}, z, z * slope);
}

// Gradient of z from that of h = leaky(z), which has the sign of z.
template <class F>
HK_HD F leaky_pullback(F h, F grad, F slope) {
  return select(h > F{}, grad, grad * slope);
}

}  // namespace HEPK_ISA
}  // namespace hepk
