// Compiled once per instruction set: loops over rows, a lane's width at a time.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/adaptive.h"
#include "core/dense.h"
#include "core/edges.h"
#include "core/equilinear.h"
#include "core/hex.h"
#include "core/knn.h"
#include "core/nearest.h"
#include "core/pairs.h"
#include "core/products.h"
#include "core/propagate.h"
#include "core/table.h"
#include "core/tokens.h"

#define HEPK_PASTE_(a, b) a##b
#define HEPK_PASTE(a, b) HEPK_PASTE_(a, b)
#define HEPK_STRING_(a) #a
#define HEPK_STRING(a) HEPK_STRING_(a)

namespace hepk {
inline namespace HEPK_ISA {

// One lane's width of rows of `columns` numbers, all of which exist, to values[column stride + row] and back. Rows are
// `apart` numbers from each other.
template <class F, class T>
void to_columns(const T* rows, int64_t columns, T* values, int64_t stride, int64_t apart) {
  if (columns == 1 && apart == 1) {
    write(read<F>(rows), values);
    return;
  }
#if defined(HEPK_LANES)
  if constexpr (run_of<F>::available) {
    for (int64_t c = 0; c < columns; c += 8) {
      const int count = columns - c < 8 ? static_cast<int>(columns - c) : 8;
      const auto run = [&](int r) { return load_run(rows + r * apart + c, count); };
      F block[8];
      for (int i = 0; i < 8; ++i) block[i] = runs<F>(run, i);
      transpose(block);
      for (int i = 0; i < count; ++i) write(block[i], values + (c + i) * stride);
    }
    return;
  }
#endif
  for (int r = 0; r < lane<F>::width; ++r) {
    for (int64_t c = 0; c < columns; ++c) values[c * stride + r] = rows[r * apart + c];
  }
}

template <class F, class T>
void to_rows(const T* values, int stride, T* rows, int columns) {
#if defined(HEPK_LANES)
  if constexpr (run_of<F>::available) {
    for (int c = 0; c < columns; c += 8) {
      const int count = columns - c < 8 ? columns - c : 8;
      F block[8];
      for (int i = 0; i < 8; ++i) block[i] = read<F>(values + (c + (i < count ? i : 0)) * stride);
      transpose(block);
      for (int r = 0; r < lane<F>::width; ++r) store_run(run_in(block[r % 8], r / 8), rows + r * columns + c, count);
    }
    return;
  }
#endif
  for (int r = 0; r < lane<F>::width; ++r) {
    for (int c = 0; c < columns; ++c) rows[r * columns + c] = values[c * stride + r];
  }
}

// Rows from `row` on as one lane a column; rows past the last one repeat it.
template <class F, int kColumns, class T>
void load_rows(const T* rows, int64_t row, int64_t last, F (&columns)[kColumns]) {
  if constexpr (is_twice<F>) {
    using Half = typename lane<F>::half;
    Half a[kColumns], b[kColumns];
    load_rows(rows, row, last, a);
    load_rows(rows, row + lane<Half>::width, last, b);
    for (int c = 0; c < kColumns; ++c) columns[c] = {a[c], b[c]};
  } else {
    constexpr int kWidth = lane<F>::width;
    T values[kColumns * kWidth];
    if (row + kWidth <= last + 1) {
      to_columns<F>(rows + row * kColumns, kColumns, values, kWidth, kColumns);
    } else {
      for (int i = 0; i < kWidth; ++i) {
        const T* from = rows + (row + i < last ? row + i : last) * kColumns;
        for (int c = 0; c < kColumns; ++c) values[c * kWidth + i] = from[c];
      }
    }
    for (int c = 0; c < kColumns; ++c) columns[c] = read<F>(values + c * kWidth);
  }
}

// One lane a column into the rows from `row` on that come before `end`.
template <class F, int kColumns, class T>
void store_rows(const F (&columns)[kColumns], T* rows, int64_t row, int64_t end) {
  if constexpr (is_twice<F>) {
    using Half = typename lane<F>::half;
    Half a[kColumns], b[kColumns];
    for (int c = 0; c < kColumns; ++c) {
      a[c] = columns[c].a;
      b[c] = columns[c].b;
    }
    store_rows(a, rows, row, end);
    store_rows(b, rows, row + lane<Half>::width, end);
  } else {
    constexpr int kWidth = lane<F>::width;
    T values[kColumns * kWidth];
    for (int c = 0; c < kColumns; ++c) write(columns[c], values + c * kWidth);
    if (row + kWidth <= end) {
      to_rows<F>(values, kWidth, rows + row * kColumns, kColumns);
    } else {
      for (int i = 0; row + i < end; ++i) {
        for (int c = 0; c < kColumns; ++c) rows[(row + i) * kColumns + c] = values[c * kWidth + i];
      }
    }
  }
}

template <class F, class T>
void field(const Grid& grid, const T* points, T* out, int64_t begin, int64_t end) {
  const FieldMap<T> map(grid);
  for (int64_t n = begin; n < end; n += lane<F>::width) {
    F r[3];
    load_rows(points, n, end - 1, r);
    const Vec3<F> b = field_at<F>(map, {r[0], r[1], r[2]});
    store_rows({b.x, b.y, b.z}, out, n, end);
  }
}

template <class F, class T>
void pullback(const Grid& grid, const T* points, const T* grad, T* out, int64_t begin, int64_t end) {
  const FieldMap<T> map(grid);
  for (int64_t n = begin; n < end; n += lane<F>::width) {
    F r[3], g[3];
    load_rows(points, n, end - 1, r);
    load_rows(grad, n, end - 1, g);
    const Vec3<F> of_r = pull_back<F>(map, {r[0], r[1], r[2]}, {g[0], g[1], g[2]});
    store_rows({of_r.x, of_r.y, of_r.z}, out, n, end);
  }
}

// Moves tracks with `move(state, curvature, z, dz)`.
template <class F, class T, class Move>
void each_track(const T* state, const T* z, const T* dz, T* out, int64_t begin, int64_t end, const Move& move) {
  for (int64_t n = begin; n < end; n += lane<F>::width) {
    F track[5], start[1], length[1];
    load_rows(state, n, end - 1, track);
    load_rows(z, n, end - 1, start);
    load_rows(dz, n, end - 1, length);
    const auto [x, y, tx, ty, qop] = track;
    const F curvature = qop * splat<F>(static_cast<T>(kCurvature));
    const State<F> moved = move(State<F>{x, y, tx, ty}, curvature, start[0], length[0]);
    store_rows({moved.x, moved.y, moved.tx, moved.ty, qop}, out, n, end);
  }
}

template <class F, class T>
void propagate(const Grid& grid, const T* state, const T* z, const T* dz, T* out, int num_steps, bool nystroem,
               int64_t begin, int64_t end) {
  const FieldMap<T> map(grid);
  if (!nystroem) {
    each_track<F>(state, z, dz, out, begin, end, [&](const State<F>& s, F curvature, F z0, F length) {
      return rk4(map, s, curvature, z0, length, num_steps);
    });
    return;
  }
  // The chain of a Nystroem step is long for its two look-ups; rk4, with four, would run out of registers.
  using G = Twice<F>;
  each_track<G>(state, z, dz, out, begin, end, [&](const State<G>& s, G curvature, G z0, G length) {
    return rkn4(map, s, curvature, z0, length, num_steps);
  });
}

template <class F, class T>
void propagate_adaptive(const Grid& grid, const T* state, const T* z, const T* dz, T* out, const StepControl& control,
                        int64_t begin, int64_t end) {
  const FieldMap<T> map(grid);
  each_track<F>(state, z, dz, out, begin, end, [&](const State<F>& s, F curvature, F z0, F length) {
    return cash_karp(map, s, curvature, z0, length, control);
  });
}

template <class F, class T>
void narrow_mlp(const Layers& net, const T* rows, const T* weights, T* out, int64_t begin, int64_t end) {
  constexpr int kPacks = 2, kWidth = lane<F>::width, kRows = kPacks * kWidth;
  const int inputs = net.sizes[0], outputs = net.sizes[net.num_layers];
  alignas(64) T values[kMaxWidth * kRows], next[kMaxWidth * kRows], rest[kMaxWidth * kRows];
  for (int64_t n = begin; n < end; n += kRows) {
    const bool whole = n + kRows <= end;
    const T* in = rows + n * inputs;
    if (!whole) {  // rows past the end are zero
      const auto count = static_cast<size_t>((end - n) * inputs);
      std::memset(rest, 0, sizeof rest);
      std::memcpy(rest, in, count * sizeof(T));
      in = rest;
    }
    for (int p = 0; p < kPacks; ++p) to_columns<F>(in + p * kWidth * inputs, inputs, values + p * kWidth, kRows, inputs);
    const T* results = dense<F, kPacks>(net, weights, values, next, kRows);
    T* target = whole ? out + n * outputs : rest;
    for (int p = 0; p < kPacks; ++p) to_rows<F>(results + p * kWidth, kRows, target + p * kWidth * outputs, outputs);
    if (!whole) std::memcpy(out + n * outputs, rest, static_cast<size_t>((end - n) * outputs) * sizeof(T));
  }
}

template <class T>
void equi_widen(const T* weight, T* wide, int64_t pairs) {
  for (int64_t p = 0; p < pairs; ++p) widen(weight + p * kCoefficients, wide + p * 2 * kComponents);
}

// kRows rows from x and y on, all channels out.
template <class F, int kRows, class T>
void equi_rows(const T* x, const WideCoefficients<T>& coefficients, const T* bias, T* y, int32_t outputs) {
  const int32_t inputs = coefficients.inputs;
  int32_t o = 0;
  for (; o + 4 <= outputs; o += 4) {
    for (int k = 0; k < kComponents; k += lane<F>::width) {
      map_tile<F, kRows, 4>(x, coefficients, bias, y, inputs, outputs, o, k);
    }
  }
  for (; o < outputs; ++o) {
    for (int k = 0; k < kComponents; k += lane<F>::width) {
      map_tile<F, kRows, 1>(x, coefficients, bias, y, inputs, outputs, o, k);
    }
  }
}

template <class F, class T>
void equi_linear(const T* x, const T* wide, const T* bias, T* y, int32_t inputs, int32_t outputs, int64_t begin,
                 int64_t end) {
  constexpr int kRows = kRegisters >= 32 ? 4 : 2;
  const WideCoefficients<T> coefficients{wide, inputs};
  const int64_t in = int64_t{inputs} * kComponents, out = int64_t{outputs} * kComponents;
  int64_t n = begin;
  for (; n + kRows <= end; n += kRows) equi_rows<F, kRows>(x + n * in, coefficients, bias, y + n * out, outputs);
  for (; n < end; ++n) equi_rows<F, 1>(x + n * in, coefficients, bias, y + n * out, outputs);
}

// Channels o to o + kOut of the gradient, all channels in.
template <class F, int kOut, class T>
void equi_gradient_rows(const T* x, const T* grad, T* wide, int32_t inputs, int32_t outputs, int64_t rows, int32_t o) {
  constexpr int kIn = kRegisters >= 32 ? 2 : 1;
  int32_t i = 0;
  for (; i + kIn <= inputs; i += kIn) {
    for (int k = 0; k < kComponents; k += lane<F>::width) {
      gradient_tile<F, kOut, kIn>(x, grad, wide, inputs, outputs, rows, o, i, k);
    }
  }
  for (; i < inputs; ++i) {
    for (int k = 0; k < kComponents; k += lane<F>::width) {
      gradient_tile<F, kOut, 1>(x, grad, wide, inputs, outputs, rows, o, i, k);
    }
  }
}

template <class F, class T>
void equi_gradient(const T* x, const T* grad, T* wide, int32_t inputs, int32_t outputs, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 32;  // rows whose numbers stay in the cache while every tile passes over them
  std::memset(wide, 0, sizeof(T) * 2 * kComponents * static_cast<size_t>(inputs) * static_cast<size_t>(outputs));
  for (int64_t n = begin; n < end; n += kBlock) {
    const int64_t rows = n + kBlock < end ? kBlock : end - n;
    const T* in = x + n * inputs * kComponents;
    const T* slope = grad + n * outputs * kComponents;
    int32_t o = 0;
    for (; o + 4 <= outputs; o += 4) equi_gradient_rows<F, 4>(in, slope, wide, inputs, outputs, rows, o);
    for (; o < outputs; ++o) equi_gradient_rows<F, 1>(in, slope, wide, inputs, outputs, rows, o);
  }
}

template <class T>
void equi_fold(const T* wide, T* out, int32_t parts, int64_t pairs) {
  for (int64_t p = 0; p < pairs; ++p) {
    T sum[2 * kComponents] = {};
    for (int32_t part = 0; part < parts; ++part) {
      const T* at = wide + (part * pairs + p) * 2 * kComponents;
      for (int k = 0; k < 2 * kComponents; ++k) sum[k] += at[k];
    }
    for (int c = 0; c < kCoefficients; ++c) out[p * kCoefficients + c] = folded(sum, c);
  }
}

// One of the two particles of a lane of pairs; returns which pairs have it.
template <class F, class T>
Particle<F> load_particles(const int64_t* indices, int count, const T* scales, const double* directions,
                           int64_t particles, bool* exists) {
  constexpr int kWidth = lane<F>::width;
  T scale[kScales][kWidth];
  double direction[kDirections][kWidth];
  for (int i = 0; i < kWidth; ++i) {
    const int64_t wanted = indices[i < count ? i : count - 1];
    const bool there = wanted >= 0 && wanted < particles;
    const int64_t index = there ? wanted : 0;
    exists[i] = exists[i] && there;
    for (int c = 0; c < kScales; ++c) scale[c][i] = scales[index * kScales + c];
    for (int c = 0; c < kDirections; ++c) direction[c][i] = directions[index * kDirections + c];
  }
  Particle<F> result;
  std::memcpy(result.scales, scale, sizeof scale);
  std::memcpy(result.directions, direction, sizeof direction);
  return result;
}

template <class F, class T>
void pair_features(const int64_t* first, const int64_t* second, const T* scales, const double* directions, T* out,
                   int64_t particles, double floor, double delta_floor, int64_t begin, int64_t end) {
  constexpr int kWidth = lane<F>::width;
  for (int64_t n = begin; n < end; n += kWidth) {
    const int count = end - n < kWidth ? static_cast<int>(end - n) : kWidth;
    bool exists[kWidth];
    std::fill(exists, exists + kWidth, true);
    const Particle<F> a = load_particles<F>(first + n, count, scales, directions, particles, exists);
    const Particle<F> b = load_particles<F>(second + n, count, scales, directions, particles, exists);
    const PairFeatures<F> found = pair_features<F>(a, b, floor, delta_floor);
    T columns[4][kWidth];
    std::memcpy(columns, &found, sizeof columns);
    for (int i = 0; i < count; ++i) {
      for (int c = 0; c < 4; ++c) out[4 * (n + i) + c] = exists[i] ? columns[c][i] : static_cast<T>(NAN);
    }
  }
}

// Weights of passed edges of `numbers` numbers from `x` on, which begin with a whole row of four columns.
template <class F, class T>
void passed_edges(const ColumnLanes<F>& columns, const T* x, int64_t numbers, int32_t* out) {
  constexpr int kWidth = lane<F>::width, kStep = kWidth * ColumnLanes<F>::kLanes;
  for (int64_t n = 0; n < numbers; n += kStep) {
    for (int g = 0; g < ColumnLanes<F>::kLanes; ++g) {
      const int64_t at = n + g * kWidth, left = numbers - at;
      F value{};
      if (left >= kWidth) {
        std::memcpy(&value, x + at, sizeof value);
      } else if (left > 0) {
        std::memcpy(&value, x + at, static_cast<size_t>(left) * sizeof(T));
      }
      const auto sum = columns.passed(value, g);
      for (int i = 0; i < kWidth; ++i) {
        if constexpr (kWidth == 1) {
          out[at] = sum;
        } else {
          out[at + i] = static_cast<int32_t>(sum[i]);
        }
      }
    }
  }
}

template <class F, class T>
void tokens(const EventBins& bins, const T* features, const T* missing, const int8_t* ids, int64_t* out,
            int32_t objects, int64_t begin, int64_t end) {
  // A block of events whose intermediate results stay in the first-level cache; the last lane may write past its end.
  constexpr int kBlock = 4 * kMaxObjects, kSlack = 16;
  int32_t passed[kBlock + kSlack], met[kBlock + kSlack], token[kMaxObjects];
  const ColumnLanes<F> of_objects(bins.objects), of_missing(bins.missing);
  const int64_t step = kMaxObjects / (objects > 0 ? objects : 1);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t events = first + step < end ? step : end - first, count = events * objects;
    passed_edges<F>(of_objects, features + 4 * first * objects, 4 * count, passed);
    passed_edges<F>(of_missing, missing + 2 * first, 2 * events, met);
    const int8_t* id = ids + first * objects;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t* p = passed + 4 * i;
      token[i] = object_token(p[0] + p[1] + p[2] + p[3], id[i], bins.id_weight);
    }
    for (int64_t e = 0; e < events; ++e) {
      int64_t* row = out + (first + e) * (objects + 2);
      for (int32_t i = 0; i < objects; ++i) row[i] = token[e * objects + i];
      row[objects] = bins.first_met + met[2 * e];
      row[objects + 1] = bins.first_met_phi + met[2 * e + 1];
    }
  }
}

template <class F, class T>
void nearest(const T* vectors, const T* codes, const T* half_norms, int64_t* out, int32_t dims, int32_t num_codes,
             int64_t begin, int64_t end) {
  // As many as registers hold: 32 of them with AVX-512, else 16.
#if defined(HEPK_ISA_avx512)
  constexpr int kCodes = 8, kLanes = 2;
#else
  constexpr int kCodes = 4, kLanes = 2;
#endif
  constexpr int kVectors = kLanes * lane<F>::width;
  T* block = static_cast<T*>(std::malloc(sizeof(T) * kVectors * (dims > 0 ? dims : 1)));
  if (block == nullptr) std::abort();
  for (int64_t n = begin; n < end; n += kVectors) {
    for (int i = 0; i < kVectors; ++i) {  // dimension by dimension; vectors past the end repeat the last one
      const T* vector = vectors + (n + i < end ? n + i : end - 1) * dims;
      for (int32_t d = 0; d < dims; ++d) block[d * kVectors + i] = vector[d];
    }
    F best[kLanes];
    typename mask_of<F>::type found[kLanes];
    try_all<kCodes, kLanes>(block, kVectors, codes, half_norms, dims, num_codes, best, found);
    for (int i = 0; i < kVectors && n + i < end; ++i) {
      if constexpr (lane<F>::width == 1) {
        out[n + i] = found[i];
      } else {
        out[n + i] = found[i / lane<F>::width][i % lane<F>::width];
      }
    }
  }
  std::free(block);
}

// Neighbours of the points `first` and following, as many as kLanes lanes hold, among the `num` points of a set.
// `block` has their numbers dimension by dimension, rows[j] point by point, and point j is in slot slots[j].
template <class F, int kLanes, class T>
void knn_of_lanes(const PointSets& sets, const T* block, int64_t stride, const T* const* rows, const int32_t* slots,
                  int32_t first, int32_t num, int64_t* out) {
  using I = typename mask_of<F>::type;
#if defined(HEPK_ISA_avx512)
  constexpr int kTile = 8;
#else
  constexpr int kTile = 4;
#endif
  constexpr int kWidth = lane<F>::width;
  const int32_t k = sets.num_neighbors;
  F best[kMaxNeighbors * kLanes];
  I found[kMaxNeighbors * kLanes], mine[kLanes];
  for (int32_t i = 0; i < k * kLanes; ++i) {
    best[i] = splat<F>(static_cast<T>(HUGE_VAL));
    found[i] = I{} - 1;
  }
  for (int c = 0; c < kLanes; ++c) {
    for (int i = 0; i < kWidth; ++i) {
      if constexpr (kWidth == 1) {
        mine[c] = first + c;
      } else {
        mine[c][i] = first + c * kWidth + i;
      }
    }
  }
  for (int32_t start = 0; start < num; start += kTile) {
    const T* tile[kTile];
    for (int r = 0; r < kTile; ++r) tile[r] = rows[start + r < num ? start + r : num - 1];
    F distance[kTile][kLanes];
    squared_distances<kTile, kLanes>(block + first, stride, tile, sets.dims, static_cast<T>(sets.period), distance);
    for (int r = 0; r < kTile && start + r < num; ++r) {
      const I candidate = I{} + (start + r);
      for (int c = 0; c < kLanes; ++c) {
        const F other = mine[c] == candidate ? splat<F>(static_cast<T>(HUGE_VAL)) : distance[r][c];
        if (any(other < best[(k - 1) * kLanes + c])) insert(other, candidate, best + c, found + c, k, kLanes);
      }
    }
  }
  for (int32_t i = 0; i < kLanes * kWidth && first + i < num; ++i) {
    int64_t* row = out + int64_t{slots[first + i]} * k;
    for (int32_t s = 0; s < k; ++s) {
      int64_t which;
      if constexpr (kWidth == 1) {
        which = found[s * kLanes + i];
      } else {
        which = found[s * kLanes + i / kWidth][i % kWidth];
      }
      row[s] = which < 0 ? -1 : slots[which];
    }
  }
}

template <class F, class T>
void knn(const PointSets& sets, const T* points, const bool* valid, int64_t* out, int64_t begin, int64_t end) {
  constexpr int kLanes = 2, kWidth = lane<F>::width, kAhead = 1 << 14;
  const int32_t dims = sets.dims;
  const int64_t stride = (sets.slots + kLanes * kWidth - 1) / (kLanes * kWidth) * (kLanes * kWidth);
  T* block = static_cast<T*>(std::malloc(sizeof(T) * stride * (dims > 0 ? dims : 1)));
  const T** rows = static_cast<const T**>(std::malloc(sizeof(T*) * sets.slots));
  int32_t* slots = static_cast<int32_t*>(std::malloc(sizeof(int32_t) * sets.slots));
  if (block == nullptr || rows == nullptr || slots == nullptr) std::abort();
  for (int64_t n = begin; n < end; ++n) {
    const T* set = points + n * sets.slots * dims;
    int64_t* result = out + n * sets.slots * sets.num_neighbors;
    int32_t num = 0;  // empty slots are left out, the others keep their order
    for (int32_t p = 0; p < sets.slots; ++p) {
      if (valid[n * sets.slots + p]) {
        slots[num] = p;
        rows[num++] = set + int64_t{p} * dims;
      } else {
        for (int32_t s = 0; s < sets.num_neighbors; ++s) result[int64_t{p} * sets.num_neighbors + s] = -1;
      }
    }
    if (n + 1 < end) {  // the next set comes into the cache in the meantime
      const int64_t numbers = int64_t{sets.slots} * dims;
      for (int64_t at = numbers; at < 2 * numbers && at < numbers + kAhead; at += 64 / sizeof(T)) {
        __builtin_prefetch(set + at);
      }
    }
    const int64_t whole = (num + kWidth - 1) / kWidth * kWidth;
    for (int32_t i = 0; i < whole; ++i) {
      for (int32_t d = 0; d < dims; ++d) {  // points past the end have no neighbours
        block[d * stride + i] = i < num ? rows[i][d] : static_cast<T>(HUGE_VAL);
      }
    }
    for (int32_t first = 0; first < num;) {
      if (num - first > kWidth) {
        knn_of_lanes<F, kLanes>(sets, block, stride, rows, slots, first, num, result);
        first += kLanes * kWidth;
      } else {
        knn_of_lanes<F, 1>(sets, block, stride, rows, slots, first, num, result);
        first += kWidth;
      }
    }
  }
  std::free(slots);
  std::free(rows);
  std::free(block);
}

// Call `body(zero, c)` for every lane of channels, zero of its type; what is left over goes one by one.
template <class F, class Body>
HK_HD void each_channel(int32_t channels, const Body& body) {
  int32_t c = 0;
  for (; c + lane<F>::width <= channels; c += lane<F>::width) body(F{}, c);
  for (; c < channels; ++c) body(typename lane<F>::scalar{}, c);
}

// Sum over all channels.
template <class F>
struct Sum {
  using T = typename lane<F>::scalar;
  F lanes{};
  T rest{};

  template <class G>
  HK_HD void add(G value) {
    if constexpr (lane<G>::width == lane<F>::width) {
      lanes = lanes + value;
    } else {
      rest += value;
    }
  }
  HK_HD T total() const { return sum_of(lanes) + rest; }
};

// Work space for an event: its features with a row of zeros below them, their gradient with a row for what goes
// nowhere, the sums y, and where the neighbours of each node are.
template <class T>
struct HexEvent {
  int32_t nodes, channels;
  int64_t size;  // numbers of an event
  T *x, *of_x, *y;
  NormOfNode<T>* norms;
  int64_t* neighbors;

  HexEvent(const HexShape& shape, const int64_t* table)
      : nodes(shape.nodes), channels(shape.channels), size(int64_t{nodes} * channels) {
    x = static_cast<T*>(std::malloc(sizeof(T) * (3 * size + 2 * channels)));
    norms = static_cast<NormOfNode<T>*>(std::malloc(sizeof(NormOfNode<T>) * nodes));
    neighbors = static_cast<int64_t*>(std::malloc(sizeof(int64_t) * nodes * kHexDirections));
    if (x == nullptr || norms == nullptr || neighbors == nullptr) std::abort();
    of_x = x + size + channels;
    y = of_x + size + channels;
    for (int64_t i = 0; i < int64_t{nodes} * kHexDirections; ++i) {
      neighbors[i] = neighbor(table, nodes, i / kHexDirections, static_cast<int>(i % kHexDirections)) * channels;
    }
    std::memset(x + size, 0, sizeof(T) * channels);
  }
  ~HexEvent() {
    std::free(neighbors);
    std::free(norms);
    std::free(x);
  }
  HexEvent(const HexEvent&) = delete;
  HexEvent& operator=(const HexEvent&) = delete;
};

// Read an event and write its sums into `y`.
template <class F, class T>
HK_HD void hex_sums(const HexEvent<T>& event, const T* features, const T* weight, const T* bias, T* y) {
  std::memcpy(event.x, features, sizeof(T) * event.size);
  each_channel<F>(event.channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
    using G = decltype(zero);
    const Stencil<G> stencil(weight, bias, event.channels, c);
    for (int32_t n = 0; n < event.nodes; ++n) {
      G features[kHexDirections];
      HK_UNROLL
      for (int t = 0; t < kHexDirections; ++t) features[t] = read<G>(event.x + event.neighbors[n * kHexDirections + t] + c);
      write(stencil.sum(features), y + n * event.channels + c);
    }
  });
}

template <class F, class T>
HK_HD T mean_of(const T* row, int32_t channels) {
  Sum<F> sum;
  each_channel<F>(channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
    sum.add(read<decltype(zero)>(row + c));
  });
  return sum.total() / channels;
}

template <class F, class T>
void hex(const HexShape& shape, const T* x, const int64_t* table, const T* weight, const T* bias, const T* gamma,
         const T* beta, T* out, int64_t begin, int64_t end) {
  const HexEvent<T> event(shape, table);
  for (int64_t e = begin; e < end; ++e) {
    T* result = out + e * event.size;
    hex_sums<F>(event, x + e * event.size, weight, bias, result);
    for (int32_t n = 0; n < shape.nodes; ++n) {
      T* row = result + n * shape.channels;
      NormOfNode<T> norm{mean_of<F>(row, shape.channels), 0, 0, 0};
      Sum<F> squares;
      each_channel<F>(shape.channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
        using G = decltype(zero);
        const G centred = read<G>(row + c) - splat<G>(norm.centre);
        squares.add(centred * centred);
      });
      norm.set_variance(squares.total() / shape.channels, shape.eps);
      each_channel<F>(shape.channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
        using G = decltype(zero);
        write(norm.normal(read<G>(row + c)) * read<G>(gamma + c) + read<G>(beta + c), row + c);
      });
    }
  }
}

template <class F, class T>
void hex_pullback(const HexShape& shape, const T* x, const T* grad, const int64_t* table, const T* weight,
                  const T* bias, const T* gamma, T* of_x, T* of_parameters, int64_t begin, int64_t end) {
  const HexEvent<T> event(shape, table);
  const int32_t channels = shape.channels;
  std::memset(of_parameters, 0, sizeof(T) * kHexRows * channels);
  for (int64_t e = begin; e < end; ++e) {
    const T* of_z = grad + e * event.size;
    hex_sums<F>(event, x + e * event.size, weight, bias, event.y);
    for (int32_t n = 0; n < shape.nodes; ++n) {
      const T *row = event.y + n * channels, *g = of_z + n * channels;
      NormOfNode<T> norm{mean_of<F>(row, channels), 0, 0, 0};
      Sum<F> squares, sum_h, sum_hy;
      each_channel<F>(channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
        using G = decltype(zero);
        const G centred = read<G>(row + c) - splat<G>(norm.centre), h = read<G>(g + c) * read<G>(gamma + c);
        squares.add(centred * centred);
        sum_h.add(h);
        sum_hy.add(h * centred);
      });
      norm.set_variance(squares.total() / channels, shape.eps);
      norm.mean_h = sum_h.total() / channels;
      norm.mean_hy = sum_hy.total() / channels * norm.rstd;
      event.norms[n] = norm;
    }
    std::memset(event.of_x, 0, sizeof(T) * event.size);
    each_channel<F>(channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
      using G = decltype(zero);
      const Stencil<G> stencil(weight, bias, channels, c);
      const G scale = read<G>(gamma + c);
      G sums[kHexRows];
      for (int k = 0; k < kHexRows; ++k) sums[k] = read<G>(of_parameters + k * channels + c);
      for (int32_t n = 0; n < shape.nodes; ++n) {
        const G g = read<G>(of_z + n * channels + c);
        const G normal = event.norms[n].normal(read<G>(event.y + n * channels + c));
        const G of_y = event.norms[n].pull_back(normal, g * scale);
        HK_UNROLL
        for (int t = 0; t < kHexDirections; ++t) {
          const int64_t at = event.neighbors[n * kHexDirections + t] + c;
          write(read<G>(event.of_x + at) + stencil.weight[t] * of_y, event.of_x + at);
          sums[t] = sums[t] + read<G>(event.x + at) * of_y;
        }
        sums[kHexDirections] = sums[kHexDirections] + of_y;
        sums[kHexDirections + 1] = sums[kHexDirections + 1] + g * normal;
        sums[kHexDirections + 2] = sums[kHexDirections + 2] + g;
      }
      for (int k = 0; k < kHexRows; ++k) write(sums[k], of_parameters + k * channels + c);
    });
    std::memcpy(of_x + e * event.size, event.of_x, sizeof(T) * event.size);
  }
}

// Tiles of kLanes lanes for all rows from begin to end; `finish(row, lane, sum)`.
template <class F, int kLanes, class T, class Finish>
void tiles_of_rows(const T* a, int64_t a_row, int64_t a_term, const T* b, int64_t b_term, int64_t terms, int64_t begin,
                   int64_t end, const Finish& finish) {
  const auto tile = [&](auto count, int64_t row) {
    product_tile<F, decltype(count)::value, kLanes>(
        a + row * a_row, a_row, a_term, b, b_term, terms,
        [&](int r, int l, F sum) __attribute__((always_inline)) { finish(row + r, l, sum); });
  };
  int64_t row = begin;
  for (; row + kTileRows <= end; row += kTileRows) tile(std::integral_constant<int, kTileRows>{}, row);
  for (; row + 2 <= end; row += 2) tile(std::integral_constant<int, 2>{}, row);
  if (row < end) tile(std::integral_constant<int, 1>{}, row);
}

// `body(first, count)` for tiles of like width over any number of lanes: five are 3 + 2, not 3 + 1 + 1. The count comes
// as a constant.
template <class Body>
void each_tile(int64_t num_lanes, const Body& body) {
  int64_t done = 0;
  for (int64_t tiles = (num_lanes + kTileLanes - 1) / kTileLanes; tiles > 0; --tiles) {
    const int64_t taken = (num_lanes - done + tiles - 1) / tiles;
    if (taken == 1) body(done, std::integral_constant<int, 1>{});
    if (taken == 2) body(done, std::integral_constant<int, 2>{});
    if (taken == 3) body(done, std::integral_constant<int, kTileLanes>{});
    done += taken;
  }
}

template <class F, class T>
void transposed_product(const T* a, const T* b, T* out, int64_t rows, int64_t inputs, int64_t outputs, int64_t begin,
                        int64_t end) {
  constexpr int64_t kBlock = 128, kWidth = lane<F>::width;  // rows that stay in the cache
  const int64_t whole = outputs / kWidth, rest = outputs % kWidth;  // lanes, and columns behind the last one
  T wide[kBlock * kWidth];
  std::memset(out + begin * outputs, 0, sizeof(T) * (end - begin) * outputs);
  // The sums of blocks are added one after the other, which keeps rounding errors small.
  for (int64_t first = 0; first < rows; first += kBlock) {
    const int64_t count = first + kBlock < rows ? kBlock : rows - first;
    const T *from_a = a + first * inputs, *from_b = b + first * outputs;
    each_tile(whole, [&](int64_t lane, auto lanes) {
      tiles_of_rows<F, decltype(lanes)::value>(from_a, 1, inputs, from_b + lane * kWidth, outputs, count, begin, end,
                                               [&](int64_t row, int l, F sum) __attribute__((always_inline)) {
                                                 T* at = out + row * outputs + (lane + l) * kWidth;
                                                 write(read<F>(at) + sum, at);
                                               });
    });
    if (rest == 0) continue;
    std::memset(wide, 0, sizeof wide);
    for (int64_t n = 0; n < count; ++n) {
      std::memcpy(wide + n * kWidth, from_b + n * outputs + whole * kWidth, sizeof(T) * rest);
    }
    tiles_of_rows<F, 1>(from_a, 1, inputs, wide, kWidth, count, begin, end, [&](int64_t row, int, F sum) {
      T values[kWidth];
      write(sum, values);
      for (int64_t c = 0; c < rest; ++c) out[row * outputs + whole * kWidth + c] += values[c];
    });
  }
}

// Numbers that the outputs take up in whole lanes.
template <class F>
int64_t linear_width(int64_t outputs) {
  return (outputs + lane<F>::width - 1) / lane<F>::width * lane<F>::width;
}

// Any (O, I) matrix into what `linear` reads: tile after tile of lanes, and in a tile input after input, so that its
// numbers follow one another. Zeros stand behind the last output.
template <class F, class T>
void linear_widen(const T* weight, int64_t output_stride, int64_t input_stride, T* wide, int64_t inputs,
                  int64_t outputs) {
  constexpr int64_t kWidth = lane<F>::width;
  each_tile(linear_width<F>(outputs) / kWidth, [&](int64_t first, auto lanes) {
    constexpr int64_t stride = decltype(lanes)::value * kWidth;
    for (int64_t l = 0; l < decltype(lanes)::value; ++l) {
      const int64_t o = (first + l) * kWidth, count = outputs - o < kWidth ? outputs - o : kWidth;
      const T* from = weight + o * output_stride;
      T* to = wide + first * kWidth * inputs + l * kWidth;
      if (input_stride == 1 && count == kWidth) {
        to_columns<F>(from, inputs, to, stride, output_stride);
        continue;
      }
      for (int64_t i = 0; i < inputs; ++i) {
        for (int64_t k = 0; k < kWidth; ++k) {
          to[i * stride + k] = k < count ? from[k * output_stride + i * input_stride] : T(0);
        }
      }
    }
  });
}

template <class F, class T>
void linear(const T* x, const T* wide, const T* bias, T* y, T slope, int64_t inputs, int64_t outputs, int64_t begin,
            int64_t end) {
  constexpr int64_t kBlock = 64, kWidth = lane<F>::width;  // rows that stay in the cache
  const int64_t whole = outputs / kWidth, rest = outputs % kWidth;
  T last_bias[kWidth] = {};
  std::memcpy(last_bias, bias + whole * kWidth, sizeof(T) * rest);
  const F below = splat<F>(slope);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = first + kBlock < end ? first + kBlock : end;
    each_tile(whole + (rest > 0), [&](int64_t lane, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      tiles_of_rows<F, kLanes>(x, inputs, 1, wide + lane * kWidth * inputs, kLanes * kWidth, inputs, first, last,
                               [&](int64_t row, int l, F sum) __attribute__((always_inline)) {
                                 T* at = y + row * outputs + (lane + l) * kWidth;
                                 if (lane + l < whole) {
                                   write(leaky(sum + read<F>(bias + (lane + l) * kWidth), below), at);
                                   return;
                                 }
                                 T values[kWidth];
                                 write(leaky(sum + read<F>(last_bias), below), values);
                                 std::memcpy(at, values, sizeof(T) * rest);
                               });
    });
  }
}

template <class F, class T>
void edge_message(const EdgeLists& lists, const T* own, const T* other, const int64_t* source, const int64_t* first,
                  T* out, int64_t begin, int64_t end) {
  const int32_t channels = lists.channels;
  const T slope = static_cast<T>(lists.slope);
  for (int64_t row = begin; row < end; ++row) {
    const T* mine = own + row * channels;
    const EdgesOfRow edges(first, row, lists.edges);
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      T* message = out + e * channels;
      if (source[e] < 0 || source[e] >= lists.sources) {
        std::fill(message, message + channels, static_cast<T>(NAN));
        continue;
      }
      const T* theirs = other + source[e] * channels;
      each_channel<F>(channels, [&](auto zero, int32_t c) __attribute__((always_inline)) {
        using G = decltype(zero);
        write(leaky(read<G>(mine + c) + read<G>(theirs + c), splat<G>(slope)), message + c);
      });
    }
  }
}

template <class F, class T>
void edge_pullback(const EdgeLists& lists, const T* grad, const T* message, const int64_t* source, const int64_t* first,
                   T* of_own, T* of_other, int32_t begin, int32_t end) {
  const int64_t channels = lists.channels;
  const size_t bytes = sizeof(T) * (end - begin);
  const T slope = static_cast<T>(lists.slope);
  for (int64_t row = 0; row < lists.sources; ++row) std::memset(of_other + row * channels + begin, 0, bytes);
  for (int64_t row = 0; row < lists.rows; ++row) {
    T* sum = of_own + row * channels + begin;
    std::memset(sum, 0, bytes);
    const EdgesOfRow edges(first, row, lists.edges);
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      if (source[e] < 0 || source[e] >= lists.sources) continue;
      const T *h = message + e * channels + begin, *g = grad + e * channels + begin;
      T* target = of_other + source[e] * channels + begin;
      each_channel<F>(end - begin, [&](auto zero, int32_t c) __attribute__((always_inline)) {
        using G = decltype(zero);
        const G of_z = leaky_pullback(read<G>(h + c), read<G>(g + c), splat<G>(slope));
        write(read<G>(sum + c) + of_z, sum + c);
        write(read<G>(target + c) + of_z, target + c);
      });
    }
  }
}

}  // namespace HEPK_ISA

const Table HEPK_PASTE(table_, HEPK_ISA) = {
    HEPK_STRING(HEPK_ISA),
    {field<float_lanes>, pullback<float_lanes>, propagate<float_lanes>, propagate_adaptive<float_lanes>, narrow_mlp<float_lanes>,
     equi_widen<float>, equi_linear<float_lanes>, equi_gradient<float_lanes>, equi_fold<float>,
     pair_features<float_lanes>,
     tokens<float_lanes>, nearest<float_lanes>, knn<float_lanes>,
     hex<float_lanes>, hex_pullback<float_lanes>, transposed_product<float_lanes>,
     edge_message<float_lanes>, edge_pullback<float_lanes>,
     linear_width<float_lanes>, linear_widen<float_lanes>, linear<float_lanes>},
    {field<double_lanes>, pullback<double_lanes>, propagate<double_lanes>, propagate_adaptive<double_lanes>, narrow_mlp<double_lanes>,
     equi_widen<double>, equi_linear<double_lanes>, equi_gradient<double_lanes>, equi_fold<double>,
     pair_features<double_lanes>,
     tokens<double_lanes>, nearest<double_lanes>, knn<double_lanes>,
     hex<double_lanes>, hex_pullback<double_lanes>, transposed_product<double_lanes>,
     edge_message<double_lanes>, edge_pullback<double_lanes>,
     linear_width<double_lanes>, linear_widen<double_lanes>, linear<double_lanes>},
};

}  // namespace hepk
