// Trilinear look-up of a vector field on a regular grid; zero off the grid.
//
//   u = (r - origin) / spacing,  n = floor(u),  w = u - n,
//   B(r) = sum over corners c in {0, 1}^3 of  prod_a (c_a w_a + (1 - c_a) (1 - w_a))  grid[n + c]
//
// The gradient is that of the interpolation: dB/dr_a is the difference of the cell's two faces, blended over the
// other two axes, over the spacing.
#pragma once

#include "lanes.h"
#include "packed.h"
#include "table.h"
#include "twice.h"

namespace hepk {
inline namespace HEPK_ISA {

// A Grid with its numbers in the type of the arithmetic.
template <class T>
struct FieldMap {
  const T* data;
  int32_t nodes[3], stride[4];
  T origin[3], inv_spacing[3];
  int32_t run_axis;  // the axis along which neighbours lie side by side, -1 without one: see packed.h

  explicit FieldMap(const Grid& grid) : data(static_cast<const T*>(grid.data)), run_axis(-1) {
    for (int axis = 0; axis < 3; ++axis) {
      nodes[axis] = grid.nodes[axis];
      stride[axis] = grid.stride[axis];
      origin[axis] = static_cast<T>(grid.origin[axis]);
      inv_spacing[axis] = static_cast<T>(grid.inv_spacing[axis]);
      if (grid.stride[3] == 1 && (stride[axis] == 3 || stride[axis] == 4)) run_axis = axis;
    }
    stride[3] = grid.stride[3];
  }
};

template <class F>
struct Vec3 {
  F x, y, z;
};

template <class F>
HK_HD F mix(F a, F b, F w) {
  return a + w * (b - a);
}

// Where a position lies along one axis: the lower node and the fraction of the cell; `inside` is false off the grid.
template <class F, class M>
HK_HD typename lane<F>::index cell(const FieldMap<typename lane<F>::scalar>& map, int axis, F position, F& fraction,
                                   M& inside) {
  using T = typename lane<F>::scalar;
  const F u = (position - splat<F>(map.origin[axis])) * splat<F>(map.inv_spacing[axis]);
  inside = (u >= splat<F>(T(0))) & (u <= splat<F>(T(map.nodes[axis] - 1)));
  const F safe = select(inside, u, splat<F>(T(0)));  // NaN and far points must not become an index
  const auto node = minimum(truncate(safe), map.nodes[axis] - 2);
  fraction = safe - to_real(node, F{});
  return node;
}

// The eight corners of a cell as 24 gathers.
template <class F>
HK_HD void gather_cell(const FieldMap<typename lane<F>::scalar>& map, typename lane<F>::index at, const F w[3],
                       F b[3]) {
  const int32_t sx = map.stride[0], sy = map.stride[1], sz = map.stride[2];
  for (int c = 0; c < 3; ++c) {
    const auto* base = map.data + c * map.stride[3];
    const F lower = mix(mix(gather(base, at), gather(base + sz, at), w[2]),
                        mix(gather(base + sy, at), gather(base + sy + sz, at), w[2]), w[1]);
    const F upper = mix(mix(gather(base + sx, at), gather(base + sx + sz, at), w[2]),
                        mix(gather(base + sx + sy, at), gather(base + sx + sy + sz, at), w[2]), w[1]);
    b[c] = mix(lower, upper, w[0]);
  }
}

#if defined(HEPK_LANES)
// The eight corners of a cell as four runs of numbers.
template <class F>
HK_HD void load_cell(const FieldMap<typename lane<F>::scalar>& map, typename lane<F>::index at, const F w[3],
                     F b[3]) {
  using Run = typename run_of<F>::type;
  const int axis = map.run_axis, p = (axis + 1) % 3, q = (axis + 2) % 3;
  const int32_t sp = map.stride[p], sq = map.stride[q], next = map.stride[axis];
  const auto run = [&](int i) {
    const auto* corner = map.data + at[i];
    const Run wp = splat<Run>(w[p][i]), wq = splat<Run>(w[q][i]);
    const Run lower = mix(load_run(corner, next + 3), load_run(corner + sp, next + 3), wp);
    const Run upper = mix(load_run(corner + sq, next + 3), load_run(corner + sp + sq, next + 3), wp);
    return mix(lower, upper, wq);
  };
  F rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = runs<F>(run, i);
  transpose(rows);
  for (int c = 0; c < 3; ++c) b[c] = mix(rows[c], next == 3 ? rows[c + 3] : rows[c + 4], w[axis]);
}
#endif

// Offset of the lower corner of the cell of a point, and where the point lies in the cell.
template <class F, class M>
HK_HD typename lane<F>::index locate(const FieldMap<typename lane<F>::scalar>& map, const Vec3<F>& r, F w[3],
                                     M& inside) {
  M in_y, in_z;
  auto at = cell(map, 0, r.x, w[0], inside) * map.stride[0];
  at += cell(map, 1, r.y, w[1], in_y) * map.stride[1];
  at += cell(map, 2, r.z, w[2], in_z) * map.stride[2];
  inside = inside & in_y & in_z;
  return at;
}

template <class F>
HK_HD Vec3<F> field_of_lane(const FieldMap<typename lane<F>::scalar>& map, const Vec3<F>& r) {
  F w[3], b[3];
  decltype(r.x >= r.y) inside;
  const auto at = locate(map, r, w, inside);
#if defined(HEPK_LANES)
  bool loaded = false;
  if constexpr (run_of<F>::available) {
    loaded = map.run_axis >= 0;
    if (loaded) load_cell(map, at, w, b);
  }
  if (!loaded) gather_cell(map, at, w, b);
#else
  gather_cell(map, at, w, b);
#endif
  const F zero{};
  return {select(inside, b[0], zero), select(inside, b[1], zero), select(inside, b[2], zero)};
}

template <class F>
HK_HD Vec3<F> field_at(const FieldMap<typename lane<F>::scalar>& map, const Vec3<F>& r) {
  if constexpr (is_twice<F>) {
    using Half = typename lane<F>::half;
    const auto a = field_at<Half>(map, {r.x.a, r.y.a, r.z.a}), b = field_at<Half>(map, {r.x.b, r.y.b, r.z.b});
    return {{a.x, b.x}, {a.y, b.y}, {a.z, b.z}};
  } else {
    return field_of_lane(map, r);
  }
}

// Sum over the components of `grad` times the gradient of that component.
template <class F>
HK_HD Vec3<F> pull_back(const FieldMap<typename lane<F>::scalar>& map, const Vec3<F>& r, const Vec3<F>& grad) {
  F w[3], v[2][2][2];
  decltype(r.x >= r.y) inside;
  const auto at = locate(map, r, w, inside);
  for (int corner = 0; corner < 8; ++corner) {
    const int i = corner >> 2, j = (corner >> 1) & 1, k = corner & 1;
    const auto* base = map.data + i * map.stride[0] + j * map.stride[1] + k * map.stride[2];
    v[i][j][k] = grad.x * gather(base, at) + grad.y * gather(base + map.stride[3], at) +
                 grad.z * gather(base + 2 * map.stride[3], at);
  }
  F along_z[2][2], rise_z[2][2];
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      along_z[i][j] = mix(v[i][j][0], v[i][j][1], w[2]);
      rise_z[i][j] = v[i][j][1] - v[i][j][0];
    }
  }
  const F x = mix(along_z[1][0], along_z[1][1], w[1]) - mix(along_z[0][0], along_z[0][1], w[1]);
  const F y = mix(along_z[0][1] - along_z[0][0], along_z[1][1] - along_z[1][0], w[0]);
  const F z = mix(mix(rise_z[0][0], rise_z[0][1], w[1]), mix(rise_z[1][0], rise_z[1][1], w[1]), w[0]);
  const F zero{};
  return {select(inside, x * splat<F>(map.inv_spacing[0]), zero), select(inside, y * splat<F>(map.inv_spacing[1]), zero),
          select(inside, z * splat<F>(map.inv_spacing[2]), zero)};
}

}  // namespace HEPK_ISA
}  // namespace hepk
