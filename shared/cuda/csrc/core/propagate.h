// Tracks through a magnetic field with equal steps: fourth-order Runge-Kutta and Runge-Kutta-Nystroem.
//
// With z as the parameter, slopes tx = dx/dz, ty = dy/dz, N = sqrt(1 + tx^2 + ty^2) and k = C q/p,
//
//   dtx/dz = k N ( tx ty Bx - (1 + tx^2) By + ty Bz)
//   dty/dz = k N ((1 + ty^2) Bx - tx ty By - tx Bz)
//
// Units: mm, tesla, q/p in 1/MeV, C = 0.299792458 MeV / (mm T).
//
// RK4 is the classical scheme with four field look-ups a step. RKN4 is Nystroem's scheme for x'' = f(z, x, x'):
// both middle stages sit at the same place, and the look-up at the end serves the next step, so it needs two
// (Hairer, Norsett, Wanner, Solving ODEs I, II.14).
#pragma once

#include "field.h"

namespace hepk {
inline namespace HEPK_ISA {

constexpr double kCurvature = 0.299792458;  // MeV / (mm T): speed of light in these units, exact

template <class F>
struct State {
  F x, y, tx, ty;
};

// dtx/dz and dty/dz; `curvature` is k = C q/p.
template <class F>
HK_HD void bend(const Vec3<F>& b, F curvature, F tx, F ty, F& dtx, F& dty) {
  const F one = splat<F>(typename lane<F>::scalar(1));
  const F kn = curvature * square_root(one + tx * tx + ty * ty);
  dtx = kn * (tx * ty * b.x - (one + tx * tx) * b.y + ty * b.z);
  dty = kn * ((one + ty * ty) * b.x - tx * ty * b.y - tx * b.z);
}

template <class F>
HK_HD State<F> rk4(const FieldMap<typename lane<F>::scalar>& map, State<F> s, F curvature, F z, F dz, int num_steps) {
  using T = typename lane<F>::scalar;
  const F h = dz / splat<F>(T(num_steps));
  const F half = h * splat<F>(T(0.5)), sixth = h / splat<F>(T(6));
  const F two = splat<F>(T(2));
  for (int step = 0; step < num_steps; ++step) {
    const F z0 = z + h * splat<F>(T(step));
    F ax, ay, bx, by, cx, cy, dx, dy;
    bend(field_at<F>(map, {s.x, s.y, z0}), curvature, s.tx, s.ty, ax, ay);
    const F tx2 = s.tx + half * ax, ty2 = s.ty + half * ay;
    bend(field_at<F>(map, {s.x + half * s.tx, s.y + half * s.ty, z0 + half}), curvature, tx2, ty2, bx, by);
    const F tx3 = s.tx + half * bx, ty3 = s.ty + half * by;
    bend(field_at<F>(map, {s.x + half * tx2, s.y + half * ty2, z0 + half}), curvature, tx3, ty3, cx, cy);
    const F tx4 = s.tx + h * cx, ty4 = s.ty + h * cy;
    bend(field_at<F>(map, {s.x + h * tx3, s.y + h * ty3, z0 + h}), curvature, tx4, ty4, dx, dy);
    s.x = s.x + sixth * (s.tx + two * (tx2 + tx3) + tx4);
    s.y = s.y + sixth * (s.ty + two * (ty2 + ty3) + ty4);
    s.tx = s.tx + sixth * (ax + two * (bx + cx) + dx);
    s.ty = s.ty + sixth * (ay + two * (by + cy) + dy);
  }
  return s;
}

template <class F>
HK_HD State<F> rkn4(const FieldMap<typename lane<F>::scalar>& map, State<F> s, F curvature, F z, F dz, int num_steps) {
  using T = typename lane<F>::scalar;
  const F h = dz / splat<F>(T(num_steps));
  const F half = h * splat<F>(T(0.5)), sixth = h / splat<F>(T(6));
  const F hh8 = h * h * splat<F>(T(0.125)), hh2 = h * h * splat<F>(T(0.5)), hh6 = h * sixth;
  const F two = splat<F>(T(2));
  Vec3<F> start = field_at<F>(map, {s.x, s.y, z});
  for (int step = 0; step < num_steps; ++step) {
    const F z0 = z + h * splat<F>(T(step));
    F ax, ay, bx, by, cx, cy, dx, dy;
    bend(start, curvature, s.tx, s.ty, ax, ay);
    const Vec3<F> middle = field_at<F>(map, {s.x + half * s.tx + hh8 * ax, s.y + half * s.ty + hh8 * ay, z0 + half});
    bend(middle, curvature, s.tx + half * ax, s.ty + half * ay, bx, by);
    bend(middle, curvature, s.tx + half * bx, s.ty + half * by, cx, cy);
    const Vec3<F> end = field_at<F>(map, {s.x + h * s.tx + hh2 * cx, s.y + h * s.ty + hh2 * cy, z0 + h});
    bend(end, curvature, s.tx + h * cx, s.ty + h * cy, dx, dy);
    s.x = s.x + h * s.tx + hh6 * (ax + bx + cx);
    s.y = s.y + h * s.ty + hh6 * (ay + by + cy);
    s.tx = s.tx + sixth * (ax + two * (bx + cx) + dx);
    s.ty = s.ty + sixth * (ay + two * (by + cy) + dy);
    start = end;
  }
  return s;
}

}  // namespace HEPK_ISA
}  // namespace hepk
