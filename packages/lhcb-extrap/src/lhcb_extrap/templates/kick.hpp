// Kick net "{{ name }}", written by lhcb-extrap {{ version }}: charged tracks from z = {{ z0[:-1] }} mm over dz = {{ dz[:-1] }} mm.
//
//   lhcb_extrap::kick::extrapolate(x, y, tx, ty, qop, n, x_out, y_out, tx_out, ty_out)
//
// takes n states in mm, 1 and 1/MeV, one array a component, and gives the states at the end. C++17, no dependency;
// with -O3 -march=native -ffast-math the loops over lanes become vector instructions. Thread-safe; in and out may
// be the same arrays.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lhcb_extrap::kick {

constexpr float z0_mm = {{ z0 }}, dz_mm = {{ dz }};
constexpr bool flip_x = {{ "true" if flip_x else "false" }}, flip_y = {{ "true" if flip_y else "false" }};
constexpr int lanes = 16;

namespace detail {

// Integral of By from the start to the six nodes and to the end, T mm; weights of the nodes, mm.
constexpr float field_integral[7] = {
    {{ field_integral }}};
constexpr float quadrature[6] = {
    {{ quadrature }}};
constexpr float kappa_per_qop = 0.299792458f;  // 1/(mm T) per 1/MeV
constexpr float min_cosine_squared = {{ min_cosine_squared }};

{% for layer in layers %}
constexpr float weights_{{ loop.index }}[{{ layer.outputs }} * {{ layer.inputs }}] = {
    {{ layer.weights }}};
constexpr float biases_{{ loop.index }}[{{ layer.outputs }}] = {
    {{ layer.biases }}};
{% endfor %}

// tanh(v) = 1 - 2/(exp(2 v) + 1), exp by the exponent bits and the Taylor series of 2^f on [-1/2, 1/2]; off by 2e-7.
inline float tanh_of(float v) {
  float t = 2.885390082f * v;  // 2 log2(e)
  t = t > 60.0f ? 60.0f : (t < -60.0f ? -60.0f : t);
  const std::int32_t n = static_cast<std::int32_t>(t < 0 ? t - 0.5f : t + 0.5f);
  const float f = 0.6931471806f * (t - static_cast<float>(n));
  const float p = 1.0f + f * (1.0f + f * (0.5f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f / 720.0f)))));
  const std::int32_t bits = (n + 127) * 8388608;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return 1.0f - 2.0f / (p * scale + 1.0f);
}

template <int inputs, int outputs, bool last>
inline void layer(const float (&weights)[outputs * inputs], const float (&biases)[outputs],
                  const float (&in)[{{ width }}][lanes], float (&out)[{{ width }}][lanes]) {
  constexpr int block = outputs % 4 == 0 ? 4 : 1;  // sums kept in registers while an input is read once
  for (int o = 0; o < outputs; o += block) {
    float sum[block][lanes];
    for (int k = 0; k < block; ++k)
      for (int l = 0; l < lanes; ++l) sum[k][l] = biases[o + k];
    for (int i = 0; i < inputs; ++i)
      for (int k = 0; k < block; ++k) {
        const float w = weights[(o + k) * inputs + i];
        for (int l = 0; l < lanes; ++l) sum[k][l] += w * in[i][l];
      }
    for (int k = 0; k < block; ++k)
      for (int l = 0; l < lanes; ++l) out[o + k][l] = last ? sum[k][l] : tanh_of(sum[k][l]);
  }
}

}  // namespace detail

inline void extrapolate(const float* x_in, const float* y_in, const float* tx_in, const float* ty_in,
                        const float* qop_in, std::size_t n, float* x_out, float* y_out, float* tx_out,
                        float* ty_out) {
  using namespace detail;
  for (std::size_t start = 0; start < n; start += lanes) {
    const int used = n - start < lanes ? static_cast<int>(n - start) : lanes;
    float sx[lanes], sy[lanes], kick[lanes], xe[lanes], ye[lanes], ue[lanes], v0[lanes];
    float a[{{ width }}][lanes], b[{{ width }}][lanes];
    for (int l = 0; l < lanes; ++l) {
      const std::size_t k = start + (l < used ? l : 0);
      float x = x_in[k], y = y_in[k], tx = tx_in[k], ty = ty_in[k], qop = qop_in[k];
      sx[l] = flip_x && qop < 0 ? -1.0f : 1.0f;
      sy[l] = flip_y && y < 0 ? -1.0f : 1.0f;
      x *= sx[l], tx *= sx[l], qop *= sx[l], y *= sy[l], ty *= sy[l];
      const float kappa = kappa_per_qop * qop, cosine = 1.0f / std::sqrt(1.0f + tx * tx + ty * ty);
      const float u0 = tx * cosine, v = ty * cosine;
      a[0][l] = x, a[1][l] = y, a[2][l] = u0, a[3][l] = v;
      float w = 1.0f, u = u0;
      for (int node = 0; node < 7; ++node) {
        u = u0 - kappa * field_integral[node];
        const float w2 = 1.0f - u * u - v * v;
        w = std::sqrt(w2 > min_cosine_squared ? w2 : min_cosine_squared);
        if (node < 6) {
          const float step = quadrature[node] / w;
          x += step * u, y += step * v;
        }
        if (node == 2) a[5][l] = x;
      }
      kick[l] = kappa * field_integral[6];
      a[4][l] = kick[l], a[6][l] = x, a[7][l] = y, a[8][l] = u, a[9][l] = w;
      xe[l] = x, ye[l] = y, ue[l] = u, v0[l] = v;
    }
{% for layer in layers %}
    layer<{{ layer.inputs }}, {{ layer.outputs }}, {{ "true" if loop.last else "false" }}>(weights_{{ loop.index }}, biases_{{ loop.index }}, {{ "a, b" if loop.index % 2 else "b, a" }});
{% endfor %}
    const auto& c = {{ "b" if layers | length % 2 else "a" }};
    for (int l = 0; l < used; ++l) {
      const std::size_t k = start + l;
      const float u = ue[l] + kick[l] * c[2][l], v = v0[l] + kick[l] * c[3][l];
      const float w2 = 1.0f - u * u - v * v;
      const float w = 1.0f / std::sqrt(w2 > min_cosine_squared ? w2 : min_cosine_squared);
      x_out[k] = sx[l] * (xe[l] + kick[l] * dz_mm * c[0][l]);
      y_out[k] = sy[l] * (ye[l] + kick[l] * dz_mm * c[1][l]);
      tx_out[k] = sx[l] * u * w;
      ty_out[k] = sy[l] * v * w;
    }
  }
}

}  // namespace lhcb_extrap::kick
