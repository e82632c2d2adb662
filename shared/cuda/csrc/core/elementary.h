// Logarithm, inverse hyperbolic sine and angle, for lanes. Each is as good as the scalar function up to a few roundings,
// but that angle does not tell signed zeros apart and is NaN for two infinities;
// on a scalar it is that function.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

HK_HD float logarithm(float x) { return logf(x); }
HK_HD double logarithm(double x) { return log(x); }
HK_HD float inverse_sinh(float x) { return asinhf(x); }
HK_HD double inverse_sinh(double x) { return asinh(x); }
// The angle between the x axis and (x, y), from 0 to pi.
HK_HD float angle(float y, float x) { return fabsf(atan2f(y, x)); }
HK_HD double angle(double y, double x) { return fabs(atan2(y, x)); }

#if defined(HEPK_LANES)

// x = m 2^e with m from sqrt(1/2) to sqrt(2).
HK_HD floats split(floats x, floats& e) {
  const ints bits = (ints)x, power = (bits - 0x3f3504f3) >> 23;
  e = __builtin_convertvector(power, floats);
  return (floats)(bits - (power << 23));
}
HK_HD doubles split(doubles x, doubles& e) {
  const longs bits = (longs)x, power = (bits - 0x3fe6a09e667f3bcdLL) >> 52;
  e = __builtin_convertvector(power, doubles);
  return (doubles)(bits - (power << 52));
}

// log x = e log 2 + 2 atanh s, s = (m - 1) / (m + 1), for x > 0 that is not denormal; NaN and infinity stay.
template <class F>
HK_HD F logarithm(F x) {
  using T = typename lane<F>::scalar;
  constexpr int kTerms = sizeof(T) == 4 ? 5 : 12;  // s^2 < 0.0295
  F e;
  const F m = split(x, e), one = splat<F>(T(1));
  const F s = (m - one) / (m + one), z = s * s;
  F sum = splat<F>(T(2.0 / (2 * kTerms - 1)));
  for (int k = kTerms - 1; k > 0; --k) sum = sum * z + splat<F>(T(2.0 / (2 * k - 1)));
  const F result = e * splat<F>(T(0.693145751953125)) + (e * splat<F>(T(1.42860682030941723e-6)) + s * sum);
  return select(x < splat<F>(static_cast<T>(HUGE_VAL)), result, x);
}

// sign(x) log(1 + u), u = |x| + x^2 / (1 + sqrt(1 + x^2)); what is lost in w = 1 + u is (u - (w - 1)) / w.
template <class F>
HK_HD F inverse_sinh(F x) {
  using T = typename lane<F>::scalar;
  const F one = splat<F>(T(1)), far = splat<F>(T(1e9)), a = absolute(x), near = select(a < far, a, one);
  const F u = near + near * near / (one + square_root(one + near * near)), w = one + u;
  const F value = logarithm(select(a < far, w, a + a)) + select(a < far, (u - (w - one)) / w, F{});
  return select(x < F{}, -value, value);
}

// Arc tangent of a = smaller / larger as a series in t = a or (a - 1) / (a + 1), |t| <= tan(pi / 8).
template <class F>
HK_HD F angle(F y, F x) {
  using T = typename lane<F>::scalar;
  constexpr int kTerms = sizeof(T) == 4 ? 9 : 21;  // t^2 < 0.1716
  constexpr double kPi = 3.14159265358979323846;
  const F one = splat<F>(T(1)), ax = absolute(x), ay = absolute(y);
  const F most = larger(ax, ay), least = smaller(ax, ay);
  const F a = least / select(most > F{}, most, one);
  const auto steep = a > splat<F>(T(0.41421356237309503));
  const F t = select(steep, (a - one) / (a + one), a), z = t * t;
  F sum = splat<F>(T(1.0 / (2 * kTerms - 1)));
  for (int k = kTerms - 1; k > 0; --k) sum = splat<F>(T(1.0 / (2 * k - 1))) - sum * z;
  F result = t * sum;
  result = select(steep, result + splat<F>(T(kPi / 4)), result);
  result = select(ay > ax, splat<F>(T(kPi / 2)) - result, result);
  result = select(x < F{}, splat<F>(T(kPi)) - result, result);
  return select((x == x) & (y == y), result, x + y);
}

#endif

}  // namespace HEPK_ISA
}  // namespace hepk
