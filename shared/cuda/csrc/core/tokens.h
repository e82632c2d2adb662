// Bins of events: how many edges of its column each number has passed; hep_shared.ops.tokens has the formula.
//
// Numbers come in rows of four columns, and lanes hold whole rows: the lane width is a multiple of four, or four
// lanes make a row. So numbers are compared where they lie, without taking columns apart.
#pragma once

#include <type_traits>

#include "lanes.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

HK_HD float absolute(float x) { return fabsf(x); }
HK_HD double absolute(double x) { return fabs(x); }
// A comparison with NaN is false: neither a number that is none nor an edge that is none counts.
HK_HD int32_t add_if_passed(float x, float edge, int32_t sum, int32_t weight) { return x >= edge ? sum + weight : sum; }
HK_HD int32_t add_if_passed(double x, double edge, int32_t sum, int32_t weight) {
  return x >= edge ? sum + weight : sum;
}

// Number `i` of a lane of numbers or of integers.
template <class V, class S>
HK_HD void set(V& values, int i, S value) {
  if constexpr (std::is_arithmetic_v<V>) {
    (void)i;
    values = value;
  } else {
    values[i] = value;
  }
}

#if defined(HEPK_LANES)
HK_HD floats absolute(floats x) { return x < 0 ? -x : x; }
HK_HD doubles absolute(doubles x) { return x < 0 ? -x : x; }
HK_HD ints add_if_passed(floats x, floats edge, ints sum, ints weight) { return x >= edge ? sum + weight : sum; }
HK_HD longs add_if_passed(doubles x, doubles edge, longs sum, longs weight) { return x >= edge ? sum + weight : sum; }
#endif

// Edges of four columns, spread over lanes.
template <class F>
struct ColumnLanes {
  using mask = typename mask_of<F>::type;
  static constexpr int kLanes = lane<F>::width < 4 ? 4 / lane<F>::width : 1;  // that make a row

  F edges[kMaxEdges][kLanes];
  mask weight[kLanes];
  mask folded[kLanes];
  int32_t num_edges;
  bool any_folded;

  explicit ColumnLanes(const Columns& columns) : num_edges(columns.num_edges), any_folded(columns.any_folded) {
    for (int i = 0; i < kLanes * lane<F>::width; ++i) {
      const int g = i / lane<F>::width, at = i % lane<F>::width, column = i % 4;
      set(weight[g], at, columns.weight[column]);
      set(folded[g], at, columns.folded[column] ? -1 : 0);
      for (int k = 0; k < num_edges; ++k) {
        set(edges[k][g], at, static_cast<typename lane<F>::scalar>(columns.edges[k][column]));
      }
    }
  }

  // Sum of the weights of the edges that `x`, lane `g` of a row, has passed.
  HK_HD mask passed(F x, int g) const {
    if (any_folded) x = select(folded[g], absolute(x), x);
    mask sum{};
    for (int k = 0; k < num_edges; ++k) sum = add_if_passed(x, edges[k][g], sum, weight[g]);
    return sum;
  }
};

// Token of an object whose columns give `passed`; `id_weight` for each step of its id.
HK_HD int32_t object_token(int32_t passed, int32_t id, int32_t id_weight) {
  return id == 0 ? 0 : 1 + (id - 1) * id_weight + passed;
}

}  // namespace HEPK_ISA
}  // namespace hepk
