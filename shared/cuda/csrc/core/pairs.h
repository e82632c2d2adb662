// Features of pairs of particles: ln kT, ln z, ln Delta, ln m^2; formula and units in hep_shared.ops.pairs.
//
// Differences of directions are taken in double and rounded once, because particles may be almost parallel.
#pragma once

#include "elementary.h"
#include "table.h"

namespace hepk {
inline namespace HEPK_ISA {

// A lane's numbers in double: one lane, or two where the lane holds floats.
template <class F>
struct doubles_of {
  using type = double;
  static constexpr int count = 1;
};
HK_HD float rounded(const double (&parts)[1], float) { return static_cast<float>(parts[0]); }
HK_HD double rounded(const double (&parts)[1], double) { return parts[0]; }

#if defined(HEPK_LANES)

template <>
struct doubles_of<floats> {
  using type = doubles;
  static constexpr int count = 2;
};
template <>
struct doubles_of<doubles> {
  using type = doubles;
  static constexpr int count = 1;
};
HK_HD doubles rounded(const doubles (&parts)[1], doubles) { return parts[0]; }
HK_HD floats rounded(const doubles (&parts)[2], floats) {
  typedef float half_floats __attribute__((vector_size(kBytes / 2)));
  const half_floats halves[2] = {__builtin_convertvector(parts[0], half_floats),
                                 __builtin_convertvector(parts[1], half_floats)};
  floats value;
  __builtin_memcpy(&value, halves, sizeof value);
  return value;
}

#endif

template <class F>
struct Particle {
  F scales[kScales];  // pT, energy, momentum, stretch, m^2
  typename doubles_of<F>::type directions[kDirections][doubles_of<F>::count];  // sinh, cosh, sin phi, cos phi
};

template <class F>
struct PairFeatures {
  F log_kt, log_z, log_delta, log_mass2;
};

template <class F>
HK_HD PairFeatures<F> pair_features(const Particle<F>& a, const Particle<F>& b, double floor, double delta_floor) {
  using T = typename lane<F>::scalar;
  constexpr int kParts = doubles_of<F>::count;
  typename doubles_of<F>::type sinh_parts[kParts], sin_parts[kParts], cos_parts[kParts];
  for (int p = 0; p < kParts; ++p) {
    const auto sinh_a = a.directions[0][p], cosh_a = a.directions[1][p], sin_a = a.directions[2][p];
    const auto sinh_b = b.directions[0][p], cosh_b = b.directions[1][p], sin_b = b.directions[2][p];
    const auto cos_a = a.directions[3][p], cos_b = b.directions[3][p];
    sinh_parts[p] = sinh_a * cosh_b - cosh_a * sinh_b;
    sin_parts[p] = sin_a * cos_b - cos_a * sin_b;
    cos_parts[p] = cos_a * cos_b + sin_a * sin_b;
  }
  const F sinh = rounded(sinh_parts, F{}), sin = rounded(sin_parts, F{}), cos = rounded(cos_parts, F{});
  const F zero{}, one = splat<F>(T(1)), two = splat<F>(T(2)), least = splat<F>(T(floor));

  const F rise = inverse_sinh(sinh), turn = angle(sin, cos);
  const F delta = square_root(larger(rise * rise + turn * turn, splat<F>(T(delta_floor * delta_floor))));
  const F pt_a = a.scales[0], energy_a = a.scales[1], momentum_a = a.scales[2], mass2_a = a.scales[4];
  const F pt_b = b.scales[0], energy_b = b.scales[1], momentum_b = b.scales[2], mass2_b = b.scales[4];
  const F pt_min = select(pt_a < pt_b, pt_a, select(pt_a == pt_a, pt_b, pt_a));  // NaN in either stays
  const F at_rest = (mass2_a * energy_b * energy_b + momentum_a * momentum_a * mass2_b) /
                    larger(energy_a * energy_b + momentum_a * momentum_b, least);
  const F square = sinh * sinh, around = select(cos < zero, one - cos, sin * sin / (one + larger(cos, zero)));
  const F opening = a.scales[3] * b.scales[3] * square / (one + square_root(one + square)) + pt_a * pt_b * around;
  const F mass2 = mass2_a + mass2_b + two * (at_rest + opening);
  return {logarithm(larger(pt_min * delta, least)), logarithm(larger(pt_min / larger(pt_a + pt_b, least), least)),
          logarithm(larger(delta, least)), logarithm(larger(mass2, least))};
}

}  // namespace HEPK_ISA
}  // namespace hepk
