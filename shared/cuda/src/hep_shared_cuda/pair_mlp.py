"""Triton kernels for `hep_shared.ops.pair_mlp`, whose head holds the formulas and the names.

A program takes tiles of rows through the layers in registers, one tile after the other, and writes its own
partial sums, so nothing depends on the order in which programs run. Channels are padded with zeros to `_pad`;
a padded channel has n = 0 and passes nothing on.

Products of float32 are three TF32 products of leading and trailing digits, or one where
`torch.backends.cuda.matmul` allows it; under autocast the factors have its half precision.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# ruff: noqa: N803, N806

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of a tile and warps: larger tiles of the backward would need more registers than there are.
_FORWARD = {"TILE": 64, "num_warps": 4}
_BACKWARD = {"TILE": 32, "num_warps": 8}
_PROGRAMS_PER_PROCESSOR = 4
_TRITON_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _product(a, b, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(DTYPE), b.to(DTYPE), input_precision=PRECISION)


@triton.jit
def _vector(vectors, LAYER: tl.constexpr, ROW: tl.constexpr, SIZES: tl.constexpr, WIDTH: tl.constexpr):
    """A vector of a layer, counted from 0: 1 / sigma, bias, gamma, beta, shift, slope; (1, C)."""
    return tl.load(vectors + (LAYER * 6 + ROW) * WIDTH + tl.arange(0, SIZES[LAYER + 1]))[None, :]


@triton.jit
def _weight(weights, LAYER: tl.constexpr, SIZES: tl.constexpr, WIDTH: tl.constexpr):
    """Weight of a layer, (C, channels before)."""
    row, column = tl.arange(0, SIZES[LAYER + 1])[:, None], tl.arange(0, SIZES[LAYER])[None, :]
    return tl.load(weights + (LAYER * WIDTH + row) * WIDTH + column)


@triton.jit
def _normed(standard, vectors, LAYER: tl.constexpr, SIZES: tl.constexpr, WIDTH: tl.constexpr):
    """The value n = gamma z^ + beta of a layer."""
    gamma = _vector(vectors, LAYER, 2, SIZES, WIDTH)
    return gamma * standard + _vector(vectors, LAYER, 3, SIZES, WIDTH)


@triton.jit
def _gelu(n):
    return 0.5 * n * (1 + tl.math.erf(n * 0.7071067811865476))


@triton.jit
def _gelu_slope(n):
    """GELU' = Phi(n) + n phi(n) with the normal distribution Phi and its density phi."""
    density = 0.3989422804014327 * tl.exp(-0.5 * n * n)
    return 0.5 * (1 + tl.math.erf(n * 0.7071067811865476)) + n * density


@triton.jit
def _load_rows(source, rows, num_rows, NUM: tl.constexpr, SIZE: tl.constexpr):
    """Rows of NUM numbers, with zeros up to SIZE; rows behind the last one repeat it."""
    column = tl.arange(0, SIZE)[None, :]
    place = tl.minimum(rows, num_rows - 1)[:, None] * NUM + column
    return tl.load(source + place, mask=column < NUM, other=0.0)


@triton.jit
def _forward(
    features, rows, num_rows, inputs, weights, vectors, DEPTH: tl.constexpr, NUM_FEATURES: tl.constexpr,
    SIZES: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Standardised values of some rows: x^, and z^ of the first DEPTH layers."""
    x = _load_rows(features, rows, num_rows, NUM_FEATURES, SIZES[0])
    place = inputs + tl.arange(0, SIZES[0])[None, :]
    values = ((x - tl.load(place)) * tl.load(place + SIZES[0]),)
    a = values[0] * tl.load(place + 2 * SIZES[0]) + tl.load(place + 3 * SIZES[0])
    for layer in tl.static_range(DEPTH):
        # Loads stay behind it: fetched ahead, or kept for the next tile, weights would fill the registers.
        tl.debug_barrier()
        if layer > 0:
            a = _gelu(_normed(values[layer], vectors, layer - 1, SIZES, WIDTH))
        z = _product(a, tl.trans(_weight(weights, layer, SIZES, WIDTH)), DTYPE, PRECISION)
        z = _vector(vectors, layer, 0, SIZES, WIDTH) * z + _vector(vectors, layer, 1, SIZES, WIDTH)
        values = values + (z,)  # type: ignore[assignment]  # noqa: RUF005  Triton knows no star
    return values


@triton.jit
def results_kernel(
    features, inputs, weights, vectors, out, num_rows,
    NUM_FEATURES: tl.constexpr, NUM_RESULTS: tl.constexpr, NUM_LAYERS: tl.constexpr, SIZES: tl.constexpr,
    WIDTH: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Results of one tile."""
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    values = _forward(
        features, rows, num_rows, inputs, weights, vectors, NUM_LAYERS, NUM_FEATURES,
        SIZES, WIDTH, DTYPE, PRECISION,
    )  # fmt: skip
    result = _normed(values[NUM_LAYERS], vectors, NUM_LAYERS - 1, SIZES, WIDTH)
    column = tl.arange(0, SIZES[NUM_LAYERS])[None, :]
    inside = (rows < num_rows)[:, None] & (column < NUM_RESULTS)
    tl.store(out + rows[:, None] * NUM_RESULTS + column, result, mask=inside)


@triton.jit
def moments_kernel(
    features, inputs, weights, vectors, means, variances, num_rows, num_tiles,
    NUM_FEATURES: tl.constexpr, DEPTH: tl.constexpr, SIZES: tl.constexpr,
    WIDTH: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Mean and variance of z^ of layer DEPTH over the tiles of this program."""
    SIZE: tl.constexpr = SIZES[DEPTH]
    start = tl.program_id(0).to(tl.int64) * num_tiles * TILE
    count = 0.0
    mean = tl.zeros((SIZE,), tl.float32)
    squares = tl.zeros((SIZE,), tl.float32)  # sum of the squared distances from the mean
    for tile in range(num_tiles):
        rows = start + tile * TILE + tl.arange(0, TILE)
        values = _forward(
            features, rows, num_rows, inputs, weights, vectors, DEPTH, NUM_FEATURES,
            SIZES, WIDTH, DTYPE, PRECISION,
        )  # fmt: skip
        inside = (rows < num_rows).to(tl.float32)
        more = tl.sum(inside, axis=0)
        tile_mean = tl.sum(values[DEPTH] * inside[:, None], axis=0) / tl.maximum(more, 1.0)
        distance = (values[DEPTH] - tile_mean[None, :]) * inside[:, None]
        step = tile_mean - mean
        share = more / tl.maximum(count + more, 1.0)
        squares += tl.sum(distance * distance, axis=0) + step * step * (count * share)
        mean += step * share
        count += more
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(means + place, mean)
    tl.store(variances + place, squares / count)


@triton.jit
def sums_kernel(
    features, grads, inputs, weights, vectors, of_grad, of_product, of_weight, num_rows, num_tiles,
    NUM_FEATURES: tl.constexpr, NUM_RESULTS: tl.constexpr, LEVEL: tl.constexpr, NUM_LAYERS: tl.constexpr,
    SIZES: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Sums of level LEVEL of the backward over the tiles of this program."""
    BEFORE: tl.constexpr = SIZES[LEVEL]
    BEHIND: tl.constexpr = SIZES[LEVEL + 1] if LEVEL < NUM_LAYERS else 1
    start = tl.program_id(0).to(tl.int64) * num_tiles * TILE
    grad_sum = tl.zeros((BEFORE,), tl.float32)
    product_sum = tl.zeros((BEFORE,), tl.float32)
    weight_sum = tl.zeros((BEHIND, BEFORE), tl.float32)
    for tile in range(num_tiles):
        rows = start + tile * TILE + tl.arange(0, TILE)
        values = _forward(
            features, rows, num_rows, inputs, weights, vectors, NUM_LAYERS, NUM_FEATURES,
            SIZES, WIDTH, DTYPE, PRECISION,
        )  # fmt: skip
        inside = (rows < num_rows)[:, None]
        grad = tl.where(inside, _load_rows(grads, rows, num_rows, NUM_RESULTS, SIZES[NUM_LAYERS]), 0.0)
        for step in tl.static_range(NUM_LAYERS - LEVEL):
            # From the last layer on, where grad is dn, to that behind LEVEL; layers are counted from 0.
            tl.debug_barrier()  # as in `_forward`
            r = _residual(grad, values[NUM_LAYERS - step], vectors, NUM_LAYERS - 1 - step, SIZES, WIDTH)
            r = tl.where(inside, r, 0.0)
            if NUM_LAYERS - 1 - step == LEVEL:
                a = values[LEVEL]
                if LEVEL > 0:
                    a = _gelu(_normed(a, vectors, LEVEL - 1, SIZES, WIDTH))
                weight_sum += _product(tl.trans(r), a, DTYPE, PRECISION)
            if NUM_LAYERS - 1 - step > 0:
                r *= _vector(vectors, NUM_LAYERS - 1 - step, 0, SIZES, WIDTH)
                weight = _weight(weights, NUM_LAYERS - 1 - step, SIZES, WIDTH)
                n = _normed(values[NUM_LAYERS - 1 - step], vectors, NUM_LAYERS - 2 - step, SIZES, WIDTH)
                grad = _product(r, weight, DTYPE, PRECISION) * _gelu_slope(n)
        if LEVEL > 0:
            grad_sum += tl.sum(grad, axis=0)
            product_sum += tl.sum(grad * values[LEVEL], axis=0)
    column = tl.arange(0, BEFORE)
    if LEVEL > 0:
        tl.store(of_grad + tl.program_id(0) * BEFORE + column, grad_sum)
        tl.store(of_product + tl.program_id(0) * BEFORE + column, product_sum)
    if LEVEL < NUM_LAYERS:
        row = tl.program_id(0) * BEHIND + tl.arange(0, BEHIND)[:, None]
        tl.store(of_weight + row * BEFORE + column[None, :], weight_sum)


@triton.jit
def _residual(grad, standard, vectors, LAYER: tl.constexpr, SIZES: tl.constexpr, WIDTH: tl.constexpr):
    """The value r = gamma dn - shift - z^ slope of a layer."""
    r = _vector(vectors, LAYER, 2, SIZES, WIDTH) * grad - _vector(vectors, LAYER, 4, SIZES, WIDTH)
    return r - standard * _vector(vectors, LAYER, 5, SIZES, WIDTH)


class _Packed(NamedTuple):
    """The network as the kernels read it."""

    inputs: Tensor  # mean, 1 / sigma, gamma, beta of the features, (4, SIZES[0])
    weights: Tensor  # (L, WIDTH, WIDTH)
    vectors: Tensor  # see `_vector`, (L, 6, WIDTH)
    options: dict[str, Any]  # what the kernels are compiled for


def _pack(network: Any, corrections: Sequence[Any] = ()) -> _Packed:
    """Write the layers one behind the other; the corrections belong to the last of them."""
    layers = network.layers
    num_features = len(network.mean)
    sizes = tuple(_pad(size) for size in (num_features, *(len(layer.bias) for layer in layers)))
    width = max(sizes)
    inputs = network.mean.new_zeros(4, sizes[0])
    inputs[:, :num_features] = torch.stack(network[:4])
    weights = inputs.new_zeros(len(layers), width, width)
    vectors = inputs.new_zeros(len(layers), 6, width)
    for number, layer in enumerate(layers):
        num_out, num_in = layer.weight.shape
        weights[number, :num_out, :num_in] = layer.weight
        vectors[number, :4, :num_out] = torch.stack(layer[1:5])
    for number, correction in enumerate(corrections, len(layers) - len(corrections)):
        vectors[number, 4:, : len(correction[0])] = torch.stack(correction)
    options = {
        "NUM_FEATURES": num_features,
        "SIZES": sizes,
        "WIDTH": width,
        "DTYPE": _TRITON_DTYPES[network.product],
        "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        "num_stages": 1,  # bringing the next weights ahead would cost registers
        "enable_fp_fusion": True,
    }
    return _Packed(inputs, weights, vectors, options)


def _pad(num: int) -> int:
    """Number of channels that a product accepts."""
    return max(16, int(triton.next_power_of_2(num)))


def _split(rows: Tensor, tile: int) -> tuple[int, int]:
    """Number of programs that share the rows, and how many tiles each of them has."""
    num_tiles = triton.cdiv(len(rows), tile)
    processors = torch.cuda.get_device_properties(rows.device).multi_processor_count if rows.is_cuda else 1
    tiles_each = triton.cdiv(num_tiles, _PROGRAMS_PER_PROCESSOR * processors)
    return triton.cdiv(num_tiles, tiles_each), tiles_each


def moments(features: Tensor, network: Any) -> tuple[list[int], Tensor, Tensor]:
    """Moments of the last layer's z^ in the rows of each program; see `hep_shared.ops.pair_mlp.Passes`."""
    packed, depth = _pack(network), len(network.layers)
    num_programs, tiles_each = _split(features, _FORWARD["TILE"])
    num_channels, size = len(network.layers[-1].bias), packed.options["SIZES"][-1]
    means, variances = features.new_empty(2, num_programs, size)
    moments_kernel[(num_programs,)](
        features, *packed[:3], means, variances, len(features), tiles_each, DEPTH=depth,
        **packed.options, **_FORWARD,
    )  # fmt: skip
    step = tiles_each * _FORWARD["TILE"]
    counts = [min(step, len(features) - start) for start in range(0, len(features), step)]
    return counts, means[:, :num_channels], variances[:, :num_channels]


def results(features: Tensor, network: Any) -> Tensor:
    """Results of all rows; see `hep_shared.ops.pair_mlp.Passes`."""
    packed, num_results = _pack(network), len(network.layers[-1].bias)
    out = features.new_empty(len(features), num_results)
    results_kernel[(triton.cdiv(len(features), _FORWARD["TILE"]),)](
        features, *packed[:3], out, len(features), NUM_RESULTS=num_results, NUM_LAYERS=len(network.layers),
        **packed.options, **_FORWARD,
    )  # fmt: skip
    return out


def sums(
    features: Tensor, grad: Tensor, network: Any, corrections: Sequence[Any], level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of one level of the backward in each program; see `hep_shared.ops.pair_mlp.Passes`."""
    packed, num_layers = _pack(network, corrections), len(network.layers)
    tiling = _FORWARD if level == num_layers else _BACKWARD
    num_programs, tiles_each = _split(features, tiling["TILE"])
    widths = [len(network.mean), *(len(layer.bias) for layer in network.layers), 0]
    sizes = (*packed.options["SIZES"], 0)
    of_grad, of_product = features.new_empty(2, num_programs, sizes[level] if level > 0 else 0)
    of_weight = features.new_empty(num_programs, sizes[level + 1], sizes[level])
    sums_kernel[(num_programs,)](
        features, grad, *packed[:3], of_grad, of_product, of_weight, len(features), tiles_each,
        NUM_RESULTS=widths[num_layers], LEVEL=level, NUM_LAYERS=num_layers,
        **packed.options, **tiling,
    )  # fmt: skip
    of_weight = of_weight[:, : widths[level + 1], : widths[level]]
    return of_grad[:, : widths[level]], of_product[:, : widths[level]], of_weight
