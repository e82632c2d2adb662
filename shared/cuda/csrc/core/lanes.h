// One arithmetic for a scalar, for CPU vector lanes and for a CUDA thread.
//
// A kernel body is a template over a lane type F. On CUDA and in the scalar build F is float or double; in the
// AVX2 and AVX-512 builds it is a GCC vector of 8 or 16 floats (4 or 8 doubles), and `gather` is one instruction.
// Everything lives in an inline namespace named after the instruction set, so that the linker can never merge
// AVX-512 code into a function that an older machine calls.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define HK_HD __host__ __device__ __forceinline__
#define HK_UNROLL _Pragma("unroll")
#else
#define HK_HD inline __attribute__((always_inline))
#define HK_UNROLL _Pragma("GCC unroll 16")
#endif

#if !defined(HEPK_ISA)
#define HEPK_ISA scalar
#define HEPK_ISA_scalar
#endif

#if !defined(__CUDACC__) && !defined(HEPK_ISA_scalar)
#define HEPK_LANES
#include <immintrin.h>  // outside the namespace
#endif

namespace hepk {
inline namespace HEPK_ISA {

// Traits of a lane type F: its scalar, its 32-bit index type, its width.
template <class F>
struct lane {
  using scalar = F;
  using index = int32_t;
  static constexpr int width = 1;
};

// What a comparison of lanes gives, and a counter beside them: integers as wide as the numbers.
template <class F>
struct mask_of {
  using type = int32_t;
};

template <class F, class T>
HK_HD F splat(T value) {
  return value - F{};  // F{} is zero: broadcasts over a vector, no-op for a scalar
}

HK_HD float square_root(float x) { return sqrtf(x); }
HK_HD double square_root(double x) { return sqrt(x); }
HK_HD int32_t truncate(float x) { return static_cast<int32_t>(x); }
HK_HD int32_t truncate(double x) { return static_cast<int32_t>(x); }
HK_HD float to_real(int32_t i, float) { return static_cast<float>(i); }
HK_HD double to_real(int32_t i, double) { return static_cast<double>(i); }
HK_HD float gather(const float* base, int32_t i) { return base[i]; }
HK_HD double gather(const double* base, int32_t i) { return base[i]; }
HK_HD float select(bool yes, float a, float b) { return yes ? a : b; }
HK_HD double select(bool yes, double a, double b) { return yes ? a : b; }
HK_HD int32_t minimum(int32_t a, int32_t b) { return a < b ? a : b; }
HK_HD bool any(bool yes) { return yes; }
HK_HD float sum_of(float x) { return x; }
HK_HD double sum_of(double x) { return x; }
HK_HD float inverse_square_root(float x) { return 1.0f / sqrtf(x); }
HK_HD double inverse_square_root(double x) { return 1.0 / sqrt(x); }
// The nearest whole number, as a real one; |x| < 2^22 and 2^51.
HK_HD float nearest(float x) { return rintf(x); }
HK_HD double nearest(double x) { return rint(x); }
// 2^n of a whole number, |n| <= 126.
HK_HD float power_of_two(float n) { return ldexpf(1.0f, static_cast<int>(n)); }
HK_HD double power_of_two(double n) { return ldexp(1.0, static_cast<int>(n)); }
// The last number first.
HK_HD float reversed(float x) { return x; }
HK_HD double reversed(double x) { return x; }

#if defined(HEPK_LANES)

#if defined(HEPK_ISA_avx512)
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
typedef float floats __attribute__((vector_size(kBytes)));
typedef double doubles __attribute__((vector_size(kBytes)));
typedef int32_t ints __attribute__((vector_size(kBytes)));           // indices of `floats`
typedef int32_t half_ints __attribute__((vector_size(kBytes / 2)));  // indices of `doubles`
typedef int64_t longs __attribute__((vector_size(kBytes)));          // comparisons of `doubles`

template <>
struct lane<floats> {
  using scalar = float;
  using index = ints;
  static constexpr int width = kBytes / 4;
};
template <>
struct lane<doubles> {
  using scalar = double;
  using index = half_ints;
  static constexpr int width = kBytes / 8;
};

template <>
struct mask_of<floats> {
  using type = ints;
};
template <>
struct mask_of<doubles> {
  using type = longs;
};

HK_HD ints truncate(floats x) { return __builtin_convertvector(x, ints); }
HK_HD half_ints truncate(doubles x) { return __builtin_convertvector(x, half_ints); }
HK_HD floats to_real(ints i, floats) { return __builtin_convertvector(i, floats); }
HK_HD doubles to_real(half_ints i, doubles) { return __builtin_convertvector(i, doubles); }
HK_HD floats select(ints yes, floats a, floats b) { return yes ? a : b; }
HK_HD doubles select(longs yes, doubles a, doubles b) { return yes ? a : b; }
HK_HD ints minimum(ints a, int32_t b) { return a < b ? a : a * 0 + b; }
HK_HD half_ints minimum(half_ints a, int32_t b) { return a < b ? a : a * 0 + b; }

#if defined(HEPK_ISA_avx512)
HK_HD bool any(ints yes) { return _mm512_movepi32_mask((__m512i)yes) != 0; }
HK_HD bool any(longs yes) { return _mm512_movepi64_mask((__m512i)yes) != 0; }
#else
HK_HD bool any(ints yes) { return _mm256_movemask_ps((__m256)yes) != 0; }
HK_HD bool any(longs yes) { return _mm256_movemask_pd((__m256d)yes) != 0; }
#endif
HK_HD floats nearest(floats x) {
  const floats shift = splat<floats>(12582912.0f);  // 1.5 2^23: the bits behind the point fall off
  return (x + shift) - shift;
}
HK_HD doubles nearest(doubles x) {
  const doubles shift = splat<doubles>(6755399441055744.0);  // 1.5 2^52
  return (x + shift) - shift;
}
HK_HD floats power_of_two(floats n) { return (floats)((__builtin_convertvector(n, ints) + 127) << 23); }
HK_HD doubles power_of_two(doubles n) { return (doubles)((__builtin_convertvector(n, longs) + 1023) << 52); }

#if defined(HEPK_ISA_avx512)
HK_HD floats reversed(floats x) {
  return __builtin_shufflevector(x, x, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
HK_HD doubles reversed(doubles x) { return __builtin_shufflevector(x, x, 7, 6, 5, 4, 3, 2, 1, 0); }
#else
HK_HD floats reversed(floats x) { return __builtin_shufflevector(x, x, 7, 6, 5, 4, 3, 2, 1, 0); }
HK_HD doubles reversed(doubles x) { return __builtin_shufflevector(x, x, 3, 2, 1, 0); }
#endif

#if defined(HEPK_ISA_avx512)
constexpr int kRegisters = 32;
HK_HD float sum_of(floats x) { return _mm512_reduce_add_ps((__m512)x); }
HK_HD double sum_of(doubles x) { return _mm512_reduce_add_pd((__m512d)x); }
HK_HD floats inverse_square_root(floats x) {
  const floats r = (floats)_mm512_rsqrt14_ps((__m512)x);
  return r * (splat<floats>(1.5f) - splat<floats>(0.5f) * x * r * r);
}
HK_HD doubles inverse_square_root(doubles x) { return splat<doubles>(1.0) / (doubles)_mm512_sqrt_pd((__m512d)x); }
HK_HD floats square_root(floats x) { return (floats)_mm512_sqrt_ps((__m512)x); }
HK_HD doubles square_root(doubles x) { return (doubles)_mm512_sqrt_pd((__m512d)x); }
HK_HD floats gather(const float* base, ints i) { return (floats)_mm512_i32gather_ps((__m512i)i, base, 4); }
HK_HD doubles gather(const double* base, half_ints i) {
  return (doubles)_mm512_i32gather_pd((__m256i)i, base, 8);
}
#else
constexpr int kRegisters = 16;
HK_HD double sum_of(doubles x) { return (x[0] + x[1]) + (x[2] + x[3]); }
HK_HD float sum_of(floats x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }
HK_HD floats inverse_square_root(floats x) {
  const floats r = (floats)_mm256_rsqrt_ps((__m256)x);
  return r * (splat<floats>(1.5f) - splat<floats>(0.5f) * x * r * r);
}
HK_HD doubles inverse_square_root(doubles x) { return splat<doubles>(1.0) / (doubles)_mm256_sqrt_pd((__m256d)x); }
HK_HD floats square_root(floats x) { return (floats)_mm256_sqrt_ps((__m256)x); }
HK_HD doubles square_root(doubles x) { return (doubles)_mm256_sqrt_pd((__m256d)x); }
HK_HD floats gather(const float* base, ints i) { return (floats)_mm256_i32gather_ps(base, (__m256i)i, 4); }
HK_HD doubles gather(const double* base, half_ints i) {
  return (doubles)_mm256_i32gather_pd(base, (__m128i)i, 8);
}
#endif

using float_lanes = floats;
using double_lanes = doubles;
#else
constexpr int kRegisters = 16;
using float_lanes = float;
using double_lanes = double;
#endif

// Numbers that lie side by side, and the way back.
template <class F>
HK_HD F read(const typename lane<F>::scalar* p) {
  F value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
template <class F>
HK_HD void write(F value, typename lane<F>::scalar* p) {
  __builtin_memcpy(p, &value, sizeof value);
}

template <class F>
HK_HD F absolute(F x) {
  return select(x < F{}, -x, x);
}
// NaN in the first argument stays.
template <class F>
HK_HD F larger(F a, F b) {
  return select(a < b, b, a);
}
template <class F>
HK_HD F smaller(F a, F b) {
  return select(a > b, b, a);
}

}  // namespace HEPK_ISA
}  // namespace hepk
