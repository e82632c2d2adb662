// Vector loads instead of gathers, where the map allows: on most processors a gather costs as much as its parts.
//
// If the numbers of two neighbouring nodes lie side by side (a component stride of one and a node stride of three or
// four along some axis), the eight corners of a cell are four runs of at most eight numbers. Each track blends its
// four runs over the other two axes; a transposition then turns the results of 8 or 16 tracks back into lanes.
#pragma once

#include "lanes.h"

namespace hepk {
inline namespace HEPK_ISA {

// Eight numbers of one track; `available` where lanes come in groups of eight.
template <class F>
struct run_of {
  static constexpr bool available = false;
};

#if defined(HEPK_LANES)

typedef float eight_floats __attribute__((vector_size(32)));

template <>
struct run_of<floats> {
  static constexpr bool available = true;
  using type = eight_floats;
};

#if defined(HEPK_ISA_avx512)

template <>
struct run_of<doubles> {
  static constexpr bool available = true;
  using type = doubles;
};

// The first `count` numbers; nothing behind them is touched.
HK_HD eight_floats load_run(const float* p, int count) {
  return (eight_floats)_mm256_maskz_loadu_ps(static_cast<__mmask8>((1 << count) - 1), p);
}
HK_HD doubles load_run(const double* p, int count) {
  return (doubles)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << count) - 1), p);
}

HK_HD void store_run(eight_floats value, float* p, int count) {
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>((1 << count) - 1), (__m256)value);
}
HK_HD void store_run(doubles value, double* p, int count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1 << count) - 1), (__m512d)value);
}
// Run `part` of those that are joined in a lane.
HK_HD eight_floats run_in(floats joined, int part) {
  eight_floats runs[2];
  __builtin_memcpy(runs, &joined, sizeof runs);
  return runs[part];
}
HK_HD doubles run_in(doubles run, int) { return run; }

// Track i, and track i + 8 where a lane has sixteen.
template <class Load>
HK_HD floats join(const Load& run, int i) {
  return (floats)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)run(i)), (__m256)run(i + 8), 1);
}
template <class F, class Load>
HK_HD F runs(const Load& run, int i) {
  if constexpr (lane<F>::width == 8) {
    return run(i);
  } else {
    return join(run, i);
  }
}

// a0 b0 a1 b1 a2 b2 a3 b3 and a4 b4 a5 b5 a6 b6 a7 b7, in each group of eight.
HK_HD void interleave(floats a, floats b, floats& low, floats& high) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
  low = (floats)_mm512_permutex2var_ps((__m512)a, first, (__m512)b);
  high = (floats)_mm512_permutex2var_ps((__m512)a, second, (__m512)b);
}
HK_HD void interleave(doubles a, doubles b, doubles& low, doubles& high) {
  const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  const __m512i second = _mm512_add_epi64(first, _mm512_set1_epi64(4));
  low = (doubles)_mm512_permutex2var_pd((__m512d)a, first, (__m512d)b);
  high = (doubles)_mm512_permutex2var_pd((__m512d)a, second, (__m512d)b);
}

#else

HK_HD eight_floats load_run(const float* p, int count) {
  const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return (eight_floats)_mm256_maskload_ps(p, wanted);
}
HK_HD void store_run(eight_floats value, float* p, int count) {
  const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  _mm256_maskstore_ps(p, wanted, (__m256)value);
}
HK_HD eight_floats run_in(floats run, int) { return (eight_floats)run; }
template <class F, class Load>
HK_HD F runs(const Load& run, int i) {
  return run(i);
}
HK_HD void interleave(floats a, floats b, floats& low, floats& high) {
  const __m256 even = _mm256_unpacklo_ps((__m256)a, (__m256)b), odd = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  low = (floats)_mm256_permute2f128_ps(even, odd, 0x20);
  high = (floats)_mm256_permute2f128_ps(even, odd, 0x31);
}

#endif

// Rows of eight numbers into eight lanes. Interleaving the first half of 64 numbers with the second turns their
// addresses by one bit; after three turns of six bits, row and column have changed places.
template <class F>
HK_HD void transpose(F rows[8]) {
  for (int turn = 0; turn < 3; ++turn) {
    F next[8];
    for (int i = 0; i < 4; ++i) interleave(rows[i], rows[i + 4], next[2 * i], next[2 * i + 1]);
    for (int i = 0; i < 8; ++i) rows[i] = next[i];
  }
}

#endif

}  // namespace HEPK_ISA
}  // namespace hepk
