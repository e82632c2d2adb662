// Two lanes that go through the same arithmetic side by side, so that a processor works on one while the other waits.
//
// A Runge-Kutta stage is a chain: the square root in it waits for the look-up before it, and the next look-up for the
// square root. Two chains fill each other's gaps.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

template <class F>
struct Twice {
  F a, b;
};

template <class F>
struct lane<Twice<F>> {
  using scalar = typename lane<F>::scalar;
  using half = F;
  static constexpr int width = 2 * lane<F>::width;
};

template <class F>
constexpr bool is_twice = false;
template <class F>
constexpr bool is_twice<Twice<F>> = true;

template <class F>
HK_HD Twice<F> operator+(const Twice<F>& x, const Twice<F>& y) {
  return {x.a + y.a, x.b + y.b};
}
template <class F>
HK_HD Twice<F> operator-(const Twice<F>& x, const Twice<F>& y) {
  return {x.a - y.a, x.b - y.b};
}
template <class F>
HK_HD Twice<F> operator-(typename lane<F>::scalar value, const Twice<F>& x) {
  return {value - x.a, value - x.b};
}
template <class F>
HK_HD Twice<F> operator*(const Twice<F>& x, const Twice<F>& y) {
  return {x.a * y.a, x.b * y.b};
}
template <class F>
HK_HD Twice<F> operator/(const Twice<F>& x, const Twice<F>& y) {
  return {x.a / y.a, x.b / y.b};
}
template <class F>
HK_HD Twice<F> square_root(const Twice<F>& x) {
  return {square_root(x.a), square_root(x.b)};
}

}  // namespace HEPK_ISA
}  // namespace hepk
