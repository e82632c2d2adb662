// Tracks through a magnetic field with steps that follow the estimated error: the pair of Cash and Karp.
//
// Equations and units as in propagate.h. Six look-ups a trial give a result of fifth order and one of fourth; with
// their difference (ex, ey, etx, ety),
//
//   r = max(max(|ex|, |ey|) / tolerance, max(|etx|, |ety|) / slope_tolerance),
//
// a trial is accepted when r <= 1 or when it is as short as allowed, and the next step is 0.9 r^(-1/5) times as long,
// within a factor of five. Lanes step independently and wait for the last of them. (J. R. Cash, A. H. Karp, ACM Trans.
// Math. Softw. 16 (1990) 201.)
#pragma once

#include "propagate.h"

namespace hepk {
inline namespace HEPK_ISA {

// r^(-1/5) for r in [1e-4, 4000]: Newton's method from r^(-3/16), which is off by a ninth at most.
template <class F>
HK_HD F inverse_fifth_root(F r) {
  using T = typename lane<F>::scalar;
  const F eighth = square_root(square_root(square_root(r)));
  F y = splat<F>(T(1)) / (eighth * square_root(eighth));
  for (int turn = 0; turn < 6; ++turn) {
    const F y2 = y * y;
    y = y * (splat<F>(T(1.2)) - splat<F>(T(0.2)) * r * y2 * y2 * y);
  }
  return y;
}

template <class F>
HK_HD State<F> cash_karp(const FieldMap<typename lane<F>::scalar>& map, State<F> s, F curvature, F z, F dz,
                         const StepControl& control) {
  using T = typename lane<F>::scalar;
  constexpr double kA[6][5] = {{0, 0, 0, 0, 0},
                               {1.0 / 5, 0, 0, 0, 0},
                               {3.0 / 40, 9.0 / 40, 0, 0, 0},
                               {3.0 / 10, -9.0 / 10, 6.0 / 5, 0, 0},
                               {-11.0 / 54, 5.0 / 2, -70.0 / 27, 35.0 / 27, 0},
                               {1631.0 / 55296, 175.0 / 512, 575.0 / 13824, 44275.0 / 110592, 253.0 / 4096}};
  constexpr double kC[6] = {0, 1.0 / 5, 3.0 / 10, 3.0 / 5, 1, 7.0 / 8};
  constexpr double kFifth[6] = {37.0 / 378, 0, 250.0 / 621, 125.0 / 594, 0, 512.0 / 1771};
  constexpr double kFourth[6] = {2825.0 / 27648, 0, 18575.0 / 48384, 13525.0 / 55296, 277.0 / 14336, 1.0 / 4};

  const F zero{}, one = splat<F>(T(1));
  const F longest = splat<F>(T(control.max_step)), shortest = splat<F>(T(control.min_step));
  const F per_length = splat<F>(T(1 / control.tolerance)), per_slope = splat<F>(T(1 / control.slope_tolerance));
  const F sign = select(dz < zero, -one, one);
  F length = longest, way = zero;  // length of the next step, and how far along z the track is
  for (int trial = 0; trial < control.max_trials; ++trial) {
    const F left = dz - way, distance = absolute(left);
    const auto active = distance > zero;
    if (!any(active)) break;
    const auto last = length >= distance;
    const F h = select(last, left, sign * length);
    F fx[6], fy[6], ax[6], ay[6];  // dx/dz, dy/dz, dtx/dz, dty/dz of the stages
    for (int i = 0; i < 6; ++i) {
      State<F> at = s;
      for (int j = 0; j < i; ++j) {
        if (kA[i][j] == 0) continue;
        const F step = h * splat<F>(T(kA[i][j]));
        at.x = at.x + step * fx[j];
        at.y = at.y + step * fy[j];
        at.tx = at.tx + step * ax[j];
        at.ty = at.ty + step * ay[j];
      }
      fx[i] = at.tx;
      fy[i] = at.ty;
      bend(field_at<F>(map, {at.x, at.y, z + way + h * splat<F>(T(kC[i]))}), curvature, at.tx, at.ty, ax[i], ay[i]);
    }
    State<F> moved = s;
    State<F> error{zero, zero, zero, zero};
    for (int i = 0; i < 6; ++i) {
      const F fifth = h * splat<F>(T(kFifth[i])), difference = h * splat<F>(T(kFifth[i] - kFourth[i]));
      moved.x = moved.x + fifth * fx[i];
      moved.y = moved.y + fifth * fy[i];
      moved.tx = moved.tx + fifth * ax[i];
      moved.ty = moved.ty + fifth * ay[i];
      error.x = error.x + difference * fx[i];
      error.y = error.y + difference * fy[i];
      error.tx = error.tx + difference * ax[i];
      error.ty = error.ty + difference * ay[i];
    }
    const F r = larger(larger(absolute(error.x), absolute(error.y)) * per_length,
                       larger(absolute(error.tx), absolute(error.ty)) * per_slope);
    const F worst = splat<F>(T(4000)), least = splat<F>(T(1e-4));
    const F safe = larger(select(r <= worst, r, worst), least);  // NaN becomes the worst
    const F grown = absolute(h) * splat<F>(T(0.9)) * inverse_fifth_root(safe);
    const auto accepted = active & ((r <= one) | (absolute(h) <= shortest));
    s.x = select(accepted, moved.x, s.x);
    s.y = select(accepted, moved.y, s.y);
    s.tx = select(accepted, moved.tx, s.tx);
    s.ty = select(accepted, moved.ty, s.ty);
    way = select(accepted, select(last, dz, way + h), way);
    const F fifth = absolute(h) * splat<F>(T(0.2)), five = absolute(h) * splat<F>(T(5));
    length = smaller(larger(smaller(larger(grown, fifth), five), shortest), longest);
  }
  const auto arrived = way == dz;
  const F lost = zero / zero;
  return {select(arrived, s.x, lost), select(arrived, s.y, lost), select(arrived, s.tx, lost),
          select(arrived, s.ty, lost)};
}

}  // namespace HEPK_ISA
}  // namespace hepk
