// Kick net "{{ name }}", written by lhcb-extrap {{ version }}: charged tracks from z = {{ z0[:-1] }} mm over dz = {{ dz[:-1] }} mm.
//
//   lhcb_extrap::kick::extrapolate(x, y, tx, ty, qop, n, x_out, y_out, tx_out, ty_out)
//
// takes n states in mm, 1 and 1/MeV, one array a component, and gives the states at the end. C++17, no dependency;
// compile with -O3 -march=native. Thread-safe; in and out may be the same arrays.
//
// The field between the planes is a polynomial in x and y on each of eight planes; two Picard iterations integrate the
// equations of motion through it, and the network corrects the result. With GCC or Clang `pack` is a vector of tracks,
// elsewhere one track.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace lhcb_extrap::kick {

constexpr float z0_mm = {{ z0 }}, dz_mm = {{ dz }};
constexpr bool flip_x = {{ "true" if flip_x else "false" }}, flip_y = {{ "true" if flip_y else "false" }};

// Everything depends on the instruction set it is compiled for, so the linker must not mix two of them.
#if defined(__AVX512F__)
inline namespace avx512 {
#elif defined(__AVX2__)
inline namespace avx2 {
#else
inline namespace generic {
#endif

namespace detail {

#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float pack __attribute__((vector_size(4 * lanes)));
#define LHCB_EXTRAP_INLINE inline __attribute__((always_inline))
LHCB_EXTRAP_INLINE float& lane(pack& p, int i) { return reinterpret_cast<float*>(&p)[i]; }
#else
constexpr int lanes = 1;
using pack = float;
#define LHCB_EXTRAP_INLINE inline
LHCB_EXTRAP_INLINE float& lane(pack& p, int) { return p; }
#endif

constexpr int nodes = {{ num_nodes }}, half = nodes / 2, iterations = {{ num_iterations }}, packs = {{ packs }};
constexpr float kappa_per_qop = 0.299792458f;  // 1/(mm T) per 1/MeV
constexpr float min_cosine_squared = {{ min_cosine_squared }};

// Integral of By on the axis from the start to the nodes and to the end, T mm; weights of the nodes, mm. The integral
// from the start to node k is p + q and that to its mirror image p - q, where p needs the differences and q the sums
// of mirrored nodes: half the multiplications.
constexpr float field_integral[nodes + 1] = {
    {{ field_integral }}};
constexpr float weights[half] = {
    {{ weights }}};
constexpr float of_sums[half][half] = {
{% for row in of_sums %}
    { {{ row }} },
{% endfor %}
};
constexpr float of_differences[half][half] = {
{% for row in of_differences %}
    { {{ row }} },
{% endfor %}
};
constexpr float to_middle[nodes] = {
    {{ to_middle }}};
// 1/X, 1/Y of the region of the polynomials, 1/mm, and their coefficients, T.
constexpr float inverse_x[nodes] = {
    {{ inverse_x }}};
constexpr float inverse_y[nodes] = {
    {{ inverse_y }}};
{% for component in components %}
constexpr float {{ component.name }}[{{ component.rows | length or 1 }}][nodes] = {
{% for row in component.rows %}
    { {{ row }} },
{% endfor %}
};
{% endfor %}

{% for layer in layers %}
constexpr float weights_{{ loop.index }}[{{ layer.outputs }} * {{ layer.inputs }}] = {
    {{ layer.weights }}};
constexpr float biases_{{ loop.index }}[{{ layer.outputs }}] = {
    {{ layer.biases }}};
{% endfor %}

LHCB_EXTRAP_INLINE pack all(float value) { return value - pack{}; }
LHCB_EXTRAP_INLINE pack at_least(pack v, float low) {
#if defined(__AVX512F__)
  return (pack)_mm512_max_ps((__m512)v, (__m512)all(low));
#else
  return v < low ? all(low) : v;
#endif
}
LHCB_EXTRAP_INLINE pack at_most(pack v, float high) {
#if defined(__AVX512F__)
  return (pack)_mm512_min_ps((__m512)v, (__m512)all(high));
#else
  return v > high ? all(high) : v;
#endif
}

LHCB_EXTRAP_INLINE pack inverse_square_root(pack v) {
#if defined(__AVX512F__)
  const pack r = (pack)_mm512_rsqrt14_ps((__m512)v);
  return r * (1.5f - 0.5f * v * r * r);
#elif defined(__AVX2__)
  const pack r = (pack)_mm256_rsqrt_ps((__m256)v);
  return r * (1.5f - 0.5f * v * r * r);
#else
  for (int i = 0; i < lanes; ++i) lane(v, i) = 1.0f / std::sqrt(lane(v, i));
  return v;
#endif
}

{% if activation == "isru" %}
LHCB_EXTRAP_INLINE pack activation(pack v) {
  return v * inverse_square_root(1.0f + v * v);
}
{% else %}
LHCB_EXTRAP_INLINE pack activation(pack v) {
  for (int i = 0; i < lanes; ++i) lane(v, i) = std::tanh(lane(v, i));
  return v;
}
{% endif %}

// Sums of `block` neurons stay in registers while the inputs are read once.
template <int inputs, int outputs, bool last>
LHCB_EXTRAP_INLINE void layer(const float (&w)[outputs * inputs], const float (&biases)[outputs],
                              const pack (&in)[{{ width }}][packs], pack (&out)[{{ width }}][packs]) {
  constexpr int block = outputs % 8 == 0 ? 8 : outputs % 4 == 0 ? 4 : 1;
  for (int o = 0; o < outputs; o += block) {
    pack sum[block][packs];
    for (int k = 0; k < block; ++k)
      for (int p = 0; p < packs; ++p) sum[k][p] = all(biases[o + k]);
    for (int i = 0; i < inputs; ++i)
      for (int k = 0; k < block; ++k)
        for (int p = 0; p < packs; ++p) sum[k][p] += w[(o + k) * inputs + i] * in[i][p];
    for (int k = 0; k < block; ++k)
      for (int p = 0; p < packs; ++p) out[o + k][p] = last ? sum[k][p] : activation(sum[k][p]);
  }
}

struct Track {
  pack x, y, u, v, w, kick, x_mid;
};

// u/w and v/w.
LHCB_EXTRAP_INLINE void rise(pack u, pack v, pack& rise_x, pack& rise_y) {
  const pack scale = inverse_square_root(at_least(1.0f - u * u - v * v, min_cosine_squared));
  rise_x = u * scale, rise_y = v * scale;
}

// `start` plus the integrals of `rate` to all nodes; gives the integral to the end.
LHCB_EXTRAP_INLINE pack integrate(const pack (&rate)[nodes], pack start, pack (&at)[nodes]) {
  pack sums[half], differences[half], total{};
  for (int j = 0; j < half; ++j) {
    sums[j] = rate[j] + rate[nodes - 1 - j], differences[j] = rate[j] - rate[nodes - 1 - j];
    total += weights[j] * sums[j];
  }
  for (int k = 0; k < half; ++k) {
    pack p = start + 0.5f * total, q = -0.5f * total;
    for (int j = 0; j < half; ++j) p += of_differences[k][j] * differences[j], q += of_sums[k][j] * sums[j];
    at[k] = p + q, at[nodes - 1 - k] = p - q;
  }
  return total;
}

LHCB_EXTRAP_INLINE Track baseline(pack x0, pack y0, pack u0, pack v0, pack kappa) {
  pack rise_x[nodes], rise_y[nodes];
  for (int k = 0; k < nodes; ++k) rise(u0 - kappa * field_integral[k], v0, rise_x[k], rise_y[k]);
  pack du[nodes], dv[nodes], xs[nodes], ys[nodes], u_change{}, v_change{};
  for (int turn = 0; turn < iterations; ++turn) {
    integrate(rise_x, x0, xs), integrate(rise_y, y0, ys);
    for (int k = 0; k < nodes; ++k) {
      const pack x = at_most(at_least(xs[k] * inverse_x[k], -1.0f), 1.0f);
      const pack y = at_most(at_least(ys[k] * inverse_y[k], -1.0f), 1.0f);
      const pack x2 = x * x, y2 = y * y;
{% for component in components %}
      const pack b{{ component.name[-1] }} = {{ component.formula }};
{% endfor %}
      du[k] = kappa * (rise_y[k] * bz - by), dv[k] = kappa * (bx - rise_x[k] * bz);
      (void)x2, (void)y2;
    }
    pack u[nodes], v[nodes];
    u_change = integrate(du, u0, u), v_change = integrate(dv, v0, v);
    for (int k = 0; k < nodes; ++k) rise(u[k] - kappa * field_integral[k], v[k], rise_x[k], rise_y[k]);
  }
  const pack kick = kappa * field_integral[nodes];
  Track t{x0, y0, u0 - kick + u_change, v0 + v_change, pack{}, kick, x0};
  for (int j = 0; j < half; ++j) {
    t.x += weights[j] * (rise_x[j] + rise_x[nodes - 1 - j]), t.y += weights[j] * (rise_y[j] + rise_y[nodes - 1 - j]);
  }
  for (int j = 0; j < nodes; ++j) t.x_mid += to_middle[j] * rise_x[j];
  const pack safe = at_least(1.0f - t.u * t.u - t.v * t.v, min_cosine_squared);
  t.w = safe * inverse_square_root(safe);
  return t;
}

// `packs` times `lanes` tracks, one array a component.
inline void extrapolate_block(const float* const in[5], float* const out[4]) {
  pack a[{{ width }}][packs], b[{{ width }}][packs], sx[packs], sy[packs];
  Track tracks[packs];
  for (int p = 0; p < packs; ++p) {
    pack state[5];
    for (int c = 0; c < 5; ++c) std::memcpy(&state[c], in[c] + p * lanes, sizeof(pack));
    sx[p] = sy[p] = all(1.0f);
    if (flip_x) sx[p] = state[4] < 0.0f ? all(-1.0f) : sx[p];
    if (flip_y) sy[p] = state[1] < 0.0f ? all(-1.0f) : sy[p];
    const pack x = sx[p] * state[0], y = sy[p] * state[1], tx = sx[p] * state[2], ty = sy[p] * state[3];
    const pack kappa = sx[p] * state[4] * kappa_per_qop;
    const pack cosine = inverse_square_root(1.0f + tx * tx + ty * ty);
    const pack u = tx * cosine, v = ty * cosine;
    const Track t = tracks[p] = baseline(x, y, u, v, kappa);
    const pack features[10] = {x, y, u, v, t.kick, t.x_mid, t.x, t.y, t.u, t.w};
    for (int i = 0; i < 10; ++i) a[i][p] = features[i];
  }
{% for layer in layers %}
  layer<{{ layer.inputs }}, {{ layer.outputs }}, {{ "true" if loop.last else "false" }}>(weights_{{ loop.index }}, biases_{{ loop.index }}, {{ "a, b" if loop.index % 2 else "b, a" }});
{% endfor %}
  const auto& c = {{ "b" if layers | length % 2 else "a" }};
  for (int p = 0; p < packs; ++p) {
    const Track& t = tracks[p];
    const pack arm = t.kick * dz_mm;
    pack rise_x, rise_y;
    rise(t.u + t.kick * c[2][p], t.v + t.kick * c[3][p], rise_x, rise_y);
    const pack end[4] = {sx[p] * (t.x + arm * c[0][p]), sy[p] * (t.y + arm * c[1][p]), sx[p] * rise_x, sy[p] * rise_y};
    for (int i = 0; i < 4; ++i) std::memcpy(out[i] + p * lanes, &end[i], sizeof(pack));
  }
}

}  // namespace detail

inline void extrapolate(const float* x_in, const float* y_in, const float* tx_in, const float* ty_in,
                        const float* qop_in, std::size_t n, float* x_out, float* y_out, float* tx_out,
                        float* ty_out) {
  constexpr std::size_t size = detail::packs * detail::lanes;
  const float* const in[5] = {x_in, y_in, tx_in, ty_in, qop_in};
  float* const out[4] = {x_out, y_out, tx_out, ty_out};
  std::size_t start = 0;
  for (; start + size <= n; start += size) {
    const float* const from[5] = {in[0] + start, in[1] + start, in[2] + start, in[3] + start, in[4] + start};
    float* const to[4] = {out[0] + start, out[1] + start, out[2] + start, out[3] + start};
    detail::extrapolate_block(from, to);
  }
  if (start == n) return;
  float rest[9][size] = {};
  for (int c = 0; c < 5; ++c)
    for (std::size_t l = start; l < n; ++l) rest[c][l - start] = in[c][l];
  const float* const from[5] = {rest[0], rest[1], rest[2], rest[3], rest[4]};
  float* const to[4] = {rest[5], rest[6], rest[7], rest[8]};
  detail::extrapolate_block(from, to);
  for (int c = 0; c < 4; ++c)
    for (std::size_t l = start; l < n; ++l) out[c][l] = rest[5 + c][l - start];
}

}  // inline namespace
}  // namespace lhcb_extrap::kick
