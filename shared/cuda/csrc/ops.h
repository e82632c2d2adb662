// The operators as torch calls them, for any device: checks, allocation, choice of the dtype.
//
// Schemas, fakes and derivatives live in Python (hep_shared.ops), where the public functions have checked the
// arguments already; the checks here keep a direct call of an operator from reading memory that is not its own.
// Stable ABI of torch 2.11 and later. `Device` says which tensors are its own and runs a kernel on them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <vector>

#include "core/table.h"

namespace hepk {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Rows of numbers that decide dtype and device of a call; `columns` 0 stands for (N,).
template <class Device>
Tensor leading_rows(const char* op, const char* name, const Tensor& rows, int64_t columns) {
  STD_TORCH_CHECK(Device::owns(rows), op, ": ", name, " must be on the ", Device::name());
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Float || rows.scalar_type() == ScalarType::Double, op, ": ", name,
                  " must be float32 or float64");
  STD_TORCH_CHECK(rows.dim() == 2 && rows.size(1) == columns, op, ": ", name, " must be (N, ", columns, ")");
  return torch::stable::contiguous(rows);
}

inline void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& leading) {
  STD_TORCH_CHECK(tensor.device() == leading.device() && tensor.scalar_type() == leading.scalar_type(), op, ": ", name,
                  " must have the device and the dtype of the first argument");
}

inline Tensor column(const char* op, const char* name, const Tensor& values, const Tensor& leading) {
  check_like(op, name, values, leading);
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == leading.size(0), op, ": ", name, " must be (N,)");
  return torch::stable::contiguous(values);
}

// `frame`: origin x, y, z and inverse spacing x, y, z.
inline Grid checked_grid(const char* op, const Tensor& grid, const std::vector<double>& frame, const Tensor& leading) {
  check_like(op, "grid", grid, leading);
  STD_TORCH_CHECK(grid.dim() == 4 && grid.size(3) == 3, op, ": grid must be (nx, ny, nz, 3)");
  STD_TORCH_CHECK(frame.size() == 6, op, ": frame must be origin x, y, z and inverse spacing x, y, z");
  Grid result{grid.const_data_ptr(), {}, {}, {}, {}};
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  int64_t last = 0;
  for (int axis = 0; axis < 4; ++axis) {
    STD_TORCH_CHECK(grid.size(axis) > 1 && grid.size(axis) <= kLimit && grid.stride(axis) <= kLimit, op,
                    ": grid needs at least two nodes and at most 2^31 numbers on each axis");
    last += (grid.size(axis) - 1) * grid.stride(axis);
    STD_TORCH_CHECK(last <= kLimit, op, ": grid spans more than 2^31 numbers");
    result.stride[axis] = static_cast<int32_t>(grid.stride(axis));
    if (axis == 3) break;
    result.nodes[axis] = static_cast<int32_t>(grid.size(axis));
    result.origin[axis] = frame[axis];
    result.inv_spacing[axis] = frame[axis + 3];
  }
  return result;
}

template <class Device>
Tensor field_lookup(Tensor points, Tensor grid, std::vector<double> frame) {
  const char* op = "hep::field_lookup";
  points = leading_rows<Device>(op, "points", points, 3);
  const Grid map = checked_grid(op, grid, frame, points);
  Tensor out = torch::stable::empty_like(points);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template field<T>(points, map, data<T>(points), static_cast<T*>(out.mutable_data_ptr()));
  };
  if (points.size(0) == 0) return out;
  points.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor field_pullback(Tensor points, Tensor grid, Tensor grad, std::vector<double> frame) {
  const char* op = "hep::field_pullback";
  points = leading_rows<Device>(op, "points", points, 3);
  grad = leading_rows<Device>(op, "grad", grad, 3);
  check_like(op, "grad", grad, points);
  STD_TORCH_CHECK(grad.size(0) == points.size(0), op, ": grad must be (N, 3)");
  const Grid map = checked_grid(op, grid, frame, points);
  Tensor out = torch::stable::empty_like(points);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template pullback<T>(points, map, data<T>(points), data<T>(grad), static_cast<T*>(out.mutable_data_ptr()));
  };
  if (points.size(0) == 0) return out;
  points.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor propagate(Tensor state, Tensor z, Tensor dz, Tensor grid, std::vector<double> frame, int64_t num_steps,
                 bool nystroem) {
  const char* op = "hep::propagate";
  state = leading_rows<Device>(op, "state", state, 5);
  z = column(op, "z", z, state);
  dz = column(op, "dz", dz, state);
  const Grid map = checked_grid(op, grid, frame, state);
  STD_TORCH_CHECK(num_steps >= 1 && num_steps <= 1'000'000, op, ": num_steps must be from 1 to 1000000");
  Tensor out = torch::stable::empty_like(state);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template propagate<T>(state, map, data<T>(state), data<T>(z), data<T>(dz),
                                  static_cast<T*>(out.mutable_data_ptr()), static_cast<int>(num_steps), nystroem);
  };
  if (state.size(0) == 0) return out;
  state.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

// Rows of multivectors, (N, channels, 16).
template <class Device>
Tensor multivectors(const char* op, const char* name, const Tensor& rows) {
  STD_TORCH_CHECK(Device::owns(rows), op, ": ", name, " must be on the ", Device::name());
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Float || rows.scalar_type() == ScalarType::Double, op, ": ", name,
                  " must be float32 or float64");
  STD_TORCH_CHECK(rows.dim() == 3 && rows.size(1) >= 1 && rows.size(1) <= kMaxChannels && rows.size(2) == kComponents,
                  op, ": ", name, " must be (N, C, 16) with C from 1 to ", kMaxChannels);
  return torch::stable::contiguous(rows);
}

template <class Device>
Tensor equi_linear(Tensor x, Tensor weight, Tensor bias) {
  const char* op = "hep::equi_linear";
  x = multivectors<Device>(op, "x", x);
  check_like(op, "weight", weight, x);
  check_like(op, "bias", bias, x);
  STD_TORCH_CHECK(weight.dim() == 3 && weight.size(0) >= 1 && weight.size(0) <= kMaxChannels &&
                      weight.size(1) == x.size(1) && weight.size(2) == kCoefficients,
                  op, ": weight must be (O, C, 10) with O from 1 to ", kMaxChannels);
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), op, ": bias must be (O,)");
  weight = torch::stable::contiguous(weight);
  bias = torch::stable::contiguous(bias);
  Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0), kComponents});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template equi_linear<T>(x, data<T>(x), data<T>(weight), data<T>(bias),
                                    static_cast<T*>(out.mutable_data_ptr()), static_cast<int32_t>(x.size(1)),
                                    static_cast<int32_t>(weight.size(0)));
  };
  if (x.size(0) == 0) return out;
  x.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor equi_linear_gradient(Tensor x, Tensor grad) {
  const char* op = "hep::equi_linear_gradient";
  x = multivectors<Device>(op, "x", x);
  grad = multivectors<Device>(op, "grad", grad);
  check_like(op, "grad", grad, x);
  STD_TORCH_CHECK(x.size(0) == grad.size(0), op, ": x and grad must have as many rows");
  Tensor out = torch::stable::new_empty(x, {grad.size(1), x.size(1), kCoefficients});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template equi_gradient<T>(x, data<T>(x), data<T>(grad), static_cast<T*>(out.mutable_data_ptr()),
                                      static_cast<int32_t>(x.size(1)), static_cast<int32_t>(grad.size(1)));
  };
  if (x.size(0) == 0) return torch::stable::zero_(out);
  x.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor pair_features(Tensor first, Tensor second, Tensor scales, Tensor directions, double floor, double delta_floor) {
  const char* op = "hep::pair_features";
  scales = leading_rows<Device>(op, "scales", scales, kScales);
  STD_TORCH_CHECK(directions.device() == scales.device() && directions.scalar_type() == ScalarType::Double, op,
                  ": directions must be float64 on the device of scales");
  STD_TORCH_CHECK(directions.dim() == 2 && directions.size(0) == scales.size(0) && directions.size(1) == kDirections,
                  op, ": directions must be (M, 4)");
  STD_TORCH_CHECK(scales.size(0) <= std::numeric_limits<int32_t>::max() / kScales, op, ": too many particles");
  for (const Tensor* index : {&first, &second}) {
    STD_TORCH_CHECK(index->device() == scales.device() && index->scalar_type() == ScalarType::Long, op,
                    ": first and second must be int64 on the device of scales");
    STD_TORCH_CHECK(index->dim() == 1 && index->size(0) == first.size(0), op, ": first and second must be (P,)");
  }
  STD_TORCH_CHECK(floor >= 1e-30 && delta_floor >= 0, op, ": floor must be at least 1e-30 and delta_floor at least 0");
  directions = torch::stable::contiguous(directions);
  first = torch::stable::contiguous(first);
  second = torch::stable::contiguous(second);
  Tensor out = torch::stable::new_empty(scales, {first.size(0), 4});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template pair_features<T>(first, data<int64_t>(first), data<int64_t>(second), data<T>(scales),
                                      data<double>(directions), static_cast<T*>(out.mutable_data_ptr()),
                                      scales.size(0), floor, delta_floor);
  };
  if (first.size(0) == 0) return out;
  STD_TORCH_CHECK(scales.size(0) > 0, op, ": pairs need particles");
  scales.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

// Edges of a column; an unused one is NaN, which nothing passes.
inline void set_column(const char* op, Columns& columns, int column, const std::vector<double>& edges, int64_t num_bins,
                       int32_t weight, bool folded) {
  const auto count = static_cast<int64_t>(edges.size());
  STD_TORCH_CHECK(count < num_bins, op, ": there must be fewer edges than bins");
  columns.weight[column] = weight;
  columns.folded[column] = folded;
  columns.any_folded = columns.any_folded || folded;
  if (count > columns.num_edges) columns.num_edges = static_cast<int32_t>(count);
  for (int k = 0; k < kMaxEdges; ++k) {
    columns.edges[k][column] = k < count ? edges[k] : std::numeric_limits<double>::quiet_NaN();
  }
}

template <class Device>
Tensor event_tokens(Tensor features, Tensor missing, Tensor ids, std::vector<double> energy_edges,
                    std::vector<double> pt_edges, std::vector<double> eta_edges, std::vector<double> phi_edges,
                    std::vector<double> met_edges, int64_t num_bins, bool with_energy, bool fold_phi) {
  const char* op = "hep::event_tokens";
  STD_TORCH_CHECK(features.dim() == 3 && features.size(2) == 4 && features.size(1) <= kMaxObjects, op,
                  ": features must be (N, P, 4) with P up to ", kMaxObjects);
  missing = leading_rows<Device>(op, "missing", missing, 2);
  check_like(op, "features", features, missing);
  STD_TORCH_CHECK(missing.size(0) == features.size(0), op, ": missing must be (N, 2)");
  STD_TORCH_CHECK(ids.dim() == 2 && ids.size(0) == features.size(0) && ids.size(1) == features.size(1), op,
                  ": ids must be (N, P)");
  STD_TORCH_CHECK(ids.device() == features.device() && ids.scalar_type() == ScalarType::Char, op,
                  ": ids must be int8 on the device of features");
  STD_TORCH_CHECK(num_bins >= 2 && num_bins <= kMaxEdges + 1, op, ": num_bins must be from 2 to ", kMaxEdges + 1);
  features = torch::stable::contiguous(features);
  ids = torch::stable::contiguous(ids);

  const auto bins = static_cast<int32_t>(num_bins);
  EventBins edges{};
  set_column(op, edges.objects, 0, energy_edges, num_bins, with_energy ? bins * bins * bins : 0, false);
  set_column(op, edges.objects, 1, pt_edges, num_bins, bins * bins, false);
  set_column(op, edges.objects, 2, eta_edges, num_bins, bins, false);
  set_column(op, edges.objects, 3, phi_edges, num_bins, 1, fold_phi);
  for (int column = 0; column < 4; column += 2) {
    set_column(op, edges.missing, column, met_edges, num_bins, 1, false);
    set_column(op, edges.missing, column + 1, phi_edges, num_bins, 1, fold_phi);
  }
  edges.id_weight = bins * bins * bins * (with_energy ? bins : 1);
  edges.first_met = 1 + kNumIds * edges.id_weight;
  edges.first_met_phi = edges.first_met + bins;

  const int64_t rows = features.size(0), objects = features.size(1);
  Tensor out = torch::stable::new_empty(features, {rows, objects + 2}, ScalarType::Long);
  if (rows == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template tokens<T>(features, edges, data<T>(features), data<T>(missing), data<int8_t>(ids),
                               static_cast<int64_t*>(out.mutable_data_ptr()), static_cast<int32_t>(objects));
  };
  features.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor nearest_code(Tensor vectors, Tensor codes, Tensor half_norms) {
  const char* op = "hep::nearest_code";
  STD_TORCH_CHECK(vectors.dim() == 2, op, ": vectors must be (N, D)");
  vectors = leading_rows<Device>(op, "vectors", vectors, vectors.size(1));
  codes = leading_rows<Device>(op, "codes", codes, vectors.size(1));
  check_like(op, "codes", codes, vectors);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(codes.size(0) >= 1 && codes.size(0) <= kLimit && codes.size(1) <= kLimit / 1024, op,
                  ": codes must be one or more, up to 2^31 of up to 2^21 dimensions");
  half_norms = column(op, "half_norms", half_norms, codes);
  Tensor out = torch::stable::new_empty(vectors, {vectors.size(0)}, ScalarType::Long);
  if (vectors.size(0) == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template nearest<T>(vectors, data<T>(vectors), data<T>(codes), data<T>(half_norms),
                                static_cast<int64_t*>(out.mutable_data_ptr()), static_cast<int32_t>(codes.size(1)),
                                static_cast<int32_t>(codes.size(0)));
  };
  vectors.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor propagate_adaptive(Tensor state, Tensor z, Tensor dz, Tensor grid, std::vector<double> frame,
                          std::vector<double> limits, int64_t max_trials) {
  const char* op = "hep::propagate_adaptive";
  state = leading_rows<Device>(op, "state", state, 5);
  z = column(op, "z", z, state);
  dz = column(op, "dz", dz, state);
  const Grid map = checked_grid(op, grid, frame, state);
  STD_TORCH_CHECK(limits.size() == 4 && limits[0] > 0 && limits[1] > 0 && limits[2] > 0 && limits[3] >= limits[2], op,
                  ": limits must be tolerance, slope tolerance, shortest and longest step");
  STD_TORCH_CHECK(max_trials >= 1 && max_trials <= 1'000'000, op, ": max_trials must be from 1 to 1000000");
  const StepControl control{limits[0], limits[1], limits[2], limits[3], static_cast<int32_t>(max_trials)};
  Tensor out = torch::stable::empty_like(state);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template propagate_adaptive<T>(state, map, data<T>(state), data<T>(z), data<T>(dz),
                                           static_cast<T*>(out.mutable_data_ptr()), control);
  };
  if (state.size(0) == 0) return out;
  state.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor narrow_mlp(Tensor rows, Tensor weights, std::vector<int64_t> sizes, int64_t activation) {
  const char* op = "hep::narrow_mlp";
  STD_TORCH_CHECK(sizes.size() >= 2 && sizes.size() <= kMaxLayers + 1, op, ": sizes must name one to ", kMaxLayers,
                  " layers");
  STD_TORCH_CHECK(activation >= 0 && activation <= 3, op, ": activation must be from 0 to 3");
  Layers net{static_cast<int32_t>(sizes.size()) - 1, {}, static_cast<Activation>(activation)};
  int64_t num_weights = 0;
  for (size_t l = 0; l < sizes.size(); ++l) {
    STD_TORCH_CHECK(sizes[l] >= 1 && sizes[l] <= kMaxWidth, op, ": sizes must be from 1 to ", kMaxWidth);
    net.sizes[l] = static_cast<int32_t>(sizes[l]);
    if (l > 0) num_weights += sizes[l] * (sizes[l - 1] + 1);
  }
  rows = leading_rows<Device>(op, "rows", rows, sizes.front());
  check_like(op, "weights", weights, rows);
  STD_TORCH_CHECK(weights.dim() == 1 && weights.size(0) == num_weights, op, ": weights must be (", num_weights, ",)");
  weights = torch::stable::contiguous(weights);
  Tensor out = torch::stable::new_empty(rows, {rows.size(0), sizes.back()});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template narrow_mlp<T>(rows, net, data<T>(rows), data<T>(weights), static_cast<T*>(out.mutable_data_ptr()));
  };
  if (rows.size(0) == 0) return out;
  rows.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor knn(Tensor points, Tensor valid, int64_t num_neighbors, double period) {
  const char* op = "hep::knn";
  STD_TORCH_CHECK(Device::owns(points), op, ": points must be on the ", Device::name());
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Float || points.scalar_type() == ScalarType::Double, op,
                  ": points must be float32 or float64");
  STD_TORCH_CHECK(points.dim() == 3 && points.size(1) < (1 << 24) && points.size(2) < (1 << 24), op,
                  ": points must be (N, P, D)");
  STD_TORCH_CHECK(valid.dim() == 2 && valid.size(0) == points.size(0) && valid.size(1) == points.size(1), op,
                  ": valid_mask must be (N, P)");
  STD_TORCH_CHECK(valid.device() == points.device() && valid.scalar_type() == ScalarType::Bool, op,
                  ": valid_mask must be bool on the device of points");
  STD_TORCH_CHECK(num_neighbors >= 1 && num_neighbors <= kMaxNeighbors, op, ": k must be from 1 to ", kMaxNeighbors);
  STD_TORCH_CHECK(period >= 0 && period < std::numeric_limits<double>::infinity() && (period == 0 || points.size(2) > 0),
                  op, ": period must be finite, and 0 where there is no dimension");
  points = torch::stable::contiguous(points);
  valid = torch::stable::contiguous(valid);
  const PointSets sets{static_cast<int32_t>(points.size(1)), static_cast<int32_t>(points.size(2)),
                       static_cast<int32_t>(num_neighbors), period};
  Tensor out = torch::stable::new_empty(points, {points.size(0), points.size(1), num_neighbors}, ScalarType::Long);
  if (out.numel() == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template knn<T>(points, sets, data<T>(points), data<bool>(valid),
                            static_cast<int64_t*>(out.mutable_data_ptr()));
  };
  points.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

// Features of the nodes of a lattice and what acts on them; weight has a row a direction.
template <class Device>
HexShape checked_lattice(const char* op, Tensor& x, Tensor& table, Tensor& weight, double eps) {
  STD_TORCH_CHECK(Device::owns(x), op, ": x must be on the ", Device::name());
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, op,
                  ": x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) < (1 << 20) && x.size(2) >= 1 && x.size(2) <= kMaxHexChannels, op,
                  ": x must be (B, N, C) with 1 to ", kMaxHexChannels, " channels");
  STD_TORCH_CHECK(table.dim() == 2 && table.size(0) == x.size(1) && table.size(1) == kHexDirections, op,
                  ": table must be (N, ", kHexDirections, ")");
  STD_TORCH_CHECK(table.device() == x.device() && table.scalar_type() == ScalarType::Long, op,
                  ": table must be int64 on the device of x");
  check_like(op, "weight", weight, x);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) == kHexDirections && weight.size(1) == x.size(2), op,
                  ": weight must be (", kHexDirections, ", C)");
  STD_TORCH_CHECK(eps >= 0, op, ": eps must not be negative");
  x = torch::stable::contiguous(x);
  table = torch::stable::contiguous(table);
  weight = torch::stable::contiguous(weight);
  return {static_cast<int32_t>(x.size(1)), static_cast<int32_t>(x.size(2)), eps};
}

inline Tensor of_channels(const char* op, const char* name, const Tensor& values, const Tensor& x) {
  check_like(op, name, values, x);
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(2), op, ": ", name, " must be (C,)");
  return torch::stable::contiguous(values);
}

template <class Device>
Tensor hex_conv_norm(Tensor x, Tensor table, Tensor weight, Tensor bias, Tensor gamma, Tensor beta, double eps) {
  const char* op = "hep::hex_conv_norm";
  const HexShape shape = checked_lattice<Device>(op, x, table, weight, eps);
  bias = of_channels(op, "bias", bias, x);
  gamma = of_channels(op, "gamma", gamma, x);
  beta = of_channels(op, "beta", beta, x);
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template hex<T>(x, shape, data<T>(x), data<int64_t>(table), data<T>(weight), data<T>(bias), data<T>(gamma),
                            data<T>(beta), static_cast<T*>(out.mutable_data_ptr()));
  };
  x.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

// The gradient of x, (B N, C), above those of the parameters, (kHexRows, C).
template <class Device>
Tensor hex_conv_norm_pullback(Tensor x, Tensor grad, Tensor table, Tensor weight, Tensor bias, Tensor gamma,
                              double eps) {
  const char* op = "hep::hex_conv_norm_pullback";
  const HexShape shape = checked_lattice<Device>(op, x, table, weight, eps);
  check_like(op, "grad", grad, x);
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) &&
                      grad.size(2) == x.size(2),
                  op, ": grad must be (B, N, C)");
  grad = torch::stable::contiguous(grad);
  bias = of_channels(op, "bias", bias, x);
  gamma = of_channels(op, "gamma", gamma, x);
  const int64_t rows = x.size(0) * x.size(1);
  Tensor out = torch::stable::new_empty(x, {rows + kHexRows, x.size(2)});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* result = static_cast<T*>(out.mutable_data_ptr());
    Device::template hex_pullback<T>(x, shape, data<T>(x), data<T>(grad), data<int64_t>(table), data<T>(weight),
                                     data<T>(bias), data<T>(gamma), result, result + rows * x.size(2));
  };
  if (rows == 0) return torch::stable::zero_(out);
  x.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor transposed_product(Tensor a, Tensor b) {
  const char* op = "hep::transposed_product";
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2, op, ": a and b must be (N, I) and (N, O)");
  a = leading_rows<Device>(op, "a", a, a.size(1));
  check_like(op, "b", b, a);
  STD_TORCH_CHECK(b.size(0) == a.size(0), op, ": a and b must have as many rows");
  b = torch::stable::contiguous(b);
  Tensor out = torch::stable::new_empty(a, {a.size(1), b.size(1)});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template transposed_product<T>(data<T>(a), data<T>(b), static_cast<T*>(out.mutable_data_ptr()), a.size(0),
                                           a.size(1), b.size(1));
  };
  if (a.size(1) == 0 || b.size(1) == 0) return out;
  a.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor linear(Tensor x, Tensor weight, Tensor bias, double slope) {
  const char* op = "hep::linear";
  STD_TORCH_CHECK(x.dim() == 2, op, ": x must be (N, I)");
  x = leading_rows<Device>(op, "x", x, x.size(1));
  check_like(op, "weight", weight, x);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1), op, ": weight must be (O, I)");
  check_like(op, "bias", bias, x);
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), op, ": bias must be (O,)");
  bias = torch::stable::contiguous(bias);
  Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template linear<T>(x, weight, data<T>(x), data<T>(weight), data<T>(bias),
                               static_cast<T*>(out.mutable_data_ptr()), static_cast<T>(slope));
  };
  if (x.size(0) == 0 || weight.size(0) == 0) return out;
  x.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

inline Tensor index_list(const char* op, const char* name, const Tensor& index, const Tensor& leading) {
  STD_TORCH_CHECK(index.device() == leading.device() && index.scalar_type() == ScalarType::Long && index.dim() == 1, op,
                  ": ", name, " must be a list of int64 on the device of the first argument");
  return torch::stable::contiguous(index);
}

template <class Device>
Tensor edge_message(Tensor own, Tensor other, Tensor source, Tensor first, double slope) {
  const char* op = "hep::edge_message";
  STD_TORCH_CHECK(own.dim() == 2 && own.size(1) >= 1 && own.size(1) <= kMaxEdgeChannels, op,
                  ": own must be (R, C) with C from 1 to ", kMaxEdgeChannels);
  own = leading_rows<Device>(op, "own", own, own.size(1));
  check_like(op, "other", other, own);
  STD_TORCH_CHECK(other.dim() == 2 && other.size(1) == own.size(1), op, ": other must be (V, C)");
  other = torch::stable::contiguous(other);
  source = index_list(op, "source", source, own);
  first = index_list(op, "first", first, own);
  STD_TORCH_CHECK(first.size(0) == own.size(0) + 1, op, ": first must be (R + 1,)");
  const EdgeLists lists{own.size(0), source.size(0), other.size(0), static_cast<int32_t>(own.size(1)), slope};
  STD_TORCH_CHECK(slope >= 0, op, ": slope must not be negative");
  Tensor out = torch::stable::new_empty(own, {lists.edges, lists.channels});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Device::template edge_message<T>(own, lists, data<T>(own), data<T>(other), data<int64_t>(source),
                                     data<int64_t>(first), static_cast<T*>(out.mutable_data_ptr()));
  };
  if (lists.rows == 0 || lists.edges == 0) return out;
  own.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

template <class Device>
Tensor edge_message_pullback(Tensor grad, Tensor message, Tensor source, Tensor first, int64_t num_sources,
                             double slope) {
  const char* op = "hep::edge_message_pullback";
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(1) >= 1 && grad.size(1) <= kMaxEdgeChannels, op,
                  ": grad must be (E, C) with C from 1 to ", kMaxEdgeChannels);
  grad = leading_rows<Device>(op, "grad", grad, grad.size(1));
  check_like(op, "message", message, grad);
  source = index_list(op, "source", source, grad);
  first = index_list(op, "first", first, grad);
  STD_TORCH_CHECK(first.size(0) >= 1, op, ": first must be (R + 1,)");
  const EdgeLists lists{first.size(0) - 1, source.size(0), num_sources, static_cast<int32_t>(grad.size(1)), slope};
  STD_TORCH_CHECK(grad.size(0) == lists.edges && message.dim() == 2 && message.size(0) == lists.edges &&
                      message.size(1) == grad.size(1), op, ": grad and message must be (E, C)");
  STD_TORCH_CHECK(slope >= 0 && num_sources >= 0, op, ": slope and num_sources must not be negative");
  message = torch::stable::contiguous(message);
  Tensor out = torch::stable::new_empty(grad, {lists.rows + lists.sources, lists.channels});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* of_own = static_cast<T*>(out.mutable_data_ptr());
    Device::template edge_pullback<T>(lists, data<T>(grad), data<T>(message), data<int64_t>(source),
                                      data<int64_t>(first), of_own, of_own + lists.rows * lists.channels);
  };
  grad.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

}  // namespace hepk
