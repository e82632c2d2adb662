r"""A small network with batch normalisation over very many rows, which keeps no activation for the backward.

    x^ = (x - mu_0) / sigma_0,     a_0 = n_0 = gamma_0 x^ + beta_0,
    z_l = W_l a_(l-1) + b_l,     z^_l = (z_l - mu_l) / sigma_l,     n_l = gamma_l z^_l + beta_l,
    a_l = GELU(n_l) for l < L,     result n_L,

with the exact GELU, n (1 + erf(n / sqrt 2)) / 2. In training mu and sigma^2 - eps are mean and variance over
the rows (S. Ioffe, C. Szegedy, "Batch normalization", arXiv:1502.03167), in evaluation the running ones.

The pairs of a batch of jets are millions of rows, and automatic differentiation would keep every z, n and a.
Kept here are the rows and the statistics; every pass over the rows computes the rest again, block by block:

- forward: the moments of z_1 to z_L, one pass each, as z_l needs the statistics before it; then the result.
- backward, one pass each for l = L to 0, as r_l = sigma_l dloss/dz_l needs sums over all rows:

      dbeta_l = sum dn_l,     dgamma_l = sum dn_l z^_l,
      r_l = gamma_l dn_l - gamma_l (dbeta_l + z^_l dgamma_l) / P,     without the second term in evaluation,
      dW_(l+1) = sum r_(l+1) a_l^T / sigma_(l+1),     dn_l = GELU'(n_l) W_(l+1)^T r_(l+1) / sigma_(l+1).

The order of all sums is fixed, and they are float64 between the blocks. Moments of blocks are merged by their
means (T. F. Chan, G. H. Golub, R. J. LeVeque, Am. Stat. 37 (1983) 242), so that a large mean costs no digits.

Under autocast the factors of products are rounded to its dtype, and the result has that dtype, as with
`nn.Linear`: the products are what half precision makes faster. What lies between them, statistics and sums
stay float32 at least.

The passes below are plain PyTorch and serve on every device; `hep_shared_cuda.pair_mlp` has them as Triton
kernels. As the running statistics move on the way, this is no operator of torch.library: while compiling or
exporting, in torch.func transforms and in forward-mode differentiation the plain layers serve.

Dimension legend: P rows, F features, H results, L layers, C channels of a layer.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hep_shared.errors import UserError
from hep_shared.ops._backend import VARIABLE, choice, must_use_reference, require, under_autocast
from hep_shared.ops.linear import Linear

log = logging.getLogger(__name__)

_OP = "pair_mlp"
_LINEAR = (nn.Linear, Linear)
_MAX_WIDTH = 64  # of a layer in the kernels, whose numbers are to stay in registers
_BLOCK = 8192  # rows treated at a time in plain PyTorch: 64 channels stay in the cache


class Layer(NamedTuple):
    """A linear layer with its normalisation: z^ = inverse (weight a) + bias, n = gamma z^ + beta."""

    weight: Tensor  # W, (C, channels before)
    inverse: Tensor  # 1 / sigma, (C,)
    bias: Tensor  # (b - mu) / sigma, (C,)
    gamma: Tensor  # (C,)
    beta: Tensor  # (C,)
    from_batch: bool  # whether mu and sigma are those of the rows


class Network(NamedTuple):
    """All numbers of the network: what is done to the features, each (F,), and the layers."""

    mean: Tensor
    inverse: Tensor
    gamma: Tensor
    beta: Tensor
    layers: tuple[Layer, ...]
    product: torch.dtype  # what the factors of products are rounded to


class Correction(NamedTuple):
    """What a layer's statistics take away in the backward: r = gamma dn - shift - z^ slope."""

    shift: Tensor  # (C,)
    slope: Tensor  # (C,)


class Passes(NamedTuple):
    """Passes over all rows, with a result for each of G blocks of rows.

    `moments(features, network)`: numbers of rows, G; means and variances of the last z^, (G, C) each.

    `results(features, network)`: n of the last layer, (P, H).

    `sums(features, grad, network, corrections, level)`: at level l of the backward sums of dn_l (G, C), of
    dn_l z^_l (G, C) and of r_(l+1) a_l^T (G, C after, C), with x^ for a_0. The first two are empty for l = 0,
    the last one for l = L. `corrections` belong to the layers l + 1 to L.
    """

    moments: Callable[[Tensor, Network], tuple[Sequence[int], Tensor, Tensor]]
    results: Callable[[Tensor, Network], Tensor]
    sums: Callable[[Tensor, Tensor, Network, Sequence[Correction], int], tuple[Tensor, Tensor, Tensor]]


def pair_mlp(
    features: Tensor, linears: Iterable[nn.Module], norms: Iterable[nn.Module] | None = None
) -> Tensor:
    """Apply the layers; differentiable once, and in their parameters alone.

    Values, gradients and running statistics are those of `plain_layers`.

    Args:
        features: Rows without gradient, (P, F) float32 or float64.
        linears: L layers `nn.Linear`, or `Linear` of `hep_shared.ops.linear`, with bias.
        norms: L + 1 layers `nn.BatchNorm1d`, of the features and behind each layer; None does not normalise.

    Returns:
        Result of the last layer, (P, H), in the dtype of the features or, under autocast, in its dtype.

    Raises:
        ValueError: A module, a shape, a dtype or a device does not fit, the features require a gradient, or
            there is one row alone to take statistics from.
    """
    if torch.compiler.is_compiling():
        return plain_layers(features, linears, norms)
    (features,) = under_autocast(features)
    lines: list[nn.Linear] = [_as(_LINEAR, module, "linears") for module in linears]
    scales: list[nn.BatchNorm1d] | None = None
    if norms is not None:
        scales = [_as((nn.BatchNorm1d,), module, "norms") for module in norms]
    _check(features, lines, scales)
    if must_use_reference() or len(features) < 2:
        return plain_layers(features, lines, scales)
    features, device = features.contiguous(), features.device.type
    is_half = torch.is_autocast_enabled(device) and features.dtype == torch.float32
    product = torch.get_autocast_dtype(device) if is_half else features.dtype
    passes = (_kernels() if _fits_kernels(features, lines) else None) or REFERENCE
    with torch.no_grad(), torch.autocast(device, enabled=False):
        network = _standardise(features, lines, scales, product, passes)
    parameters = [parameter for module in (*lines, *(scales or ())) for parameter in module.parameters()]
    return cast(Tensor, _PairMLP.apply(features, network, passes, *parameters))


def plain_layers(
    features: Tensor, linears: Iterable[nn.Module], norms: Iterable[nn.Module] | None = None
) -> Tensor:
    """Apply the layers one after the other; arguments and result are those of `pair_mlp`."""
    scales = None if norms is None else list(norms)
    x: Tensor = features if scales is None else scales[0](features)
    for number, line in enumerate(linears):
        x = line(x if number == 0 else functional.gelu(x))
        x = x if scales is None else scales[number + 1](x)
    return x


def is_fused(
    features: Tensor, linears: Iterable[nn.Module], norms: Iterable[nn.Module] | None = None
) -> bool:
    """Whether `pair_mlp` takes these arguments and uses kernels: on a GPU with Triton, in float32.

    Args:
        features: See `pair_mlp`, as the others.
        linears: Layers.
        norms: Normalisations.

    Returns:
        True where the kernels serve.
    """
    if torch.compiler.is_compiling() or must_use_reference() or features.requires_grad:
        return False
    lines = [line for line in linears if isinstance(line, nn.Linear) and type(line) in _LINEAR]
    # A normalisation that was replaced by another kind, such as SyncBatchNorm, is left to itself.
    is_known = all(type(norm) is nn.BatchNorm1d for norm in norms or ())
    return is_known and _fits_kernels(features, lines) and _kernels() is not None


def _as(kinds: tuple[type[Any], ...], module: nn.Module, name: str) -> Any:
    # Not any subclass: what it does differently would be lost.
    require(
        type(module) in kinds and getattr(module, "bias", None) is not None,
        _OP,
        f"{name} must hold nn.{kinds[0].__name__} with weight and bias, not {module}",
    )
    return module


def _check(features: Tensor, lines: Sequence[nn.Linear], scales: Sequence[nn.BatchNorm1d] | None) -> None:
    """Refuse what does not fit."""
    require(len(lines) > 0, _OP, "linears must hold at least one layer")
    require(
        features.dim() == 2 and features.shape[1] == lines[0].in_features,
        _OP,
        f"features must have the shape (P, {lines[0].in_features}), not {tuple(features.shape)}",
    )
    require(
        features.dtype in (torch.float32, torch.float64),
        _OP,
        f"features must be float32 or float64, not {features.dtype}",
    )
    require(
        not features.requires_grad,
        _OP,
        "features must not require a gradient, because none is computed for them; use plain_layers",
    )
    widths, inputs = _widths(lines), [line.in_features for line in lines]
    require(
        inputs == widths[:-1],
        _OP,
        f"linears must fit each other, but they take {inputs} and give {widths[1:]} channels",
    )
    found = widths if scales is None else [scale.num_features for scale in scales]
    require(found == widths, _OP, f"norms must be {widths} wide, not {found}")
    for module in (*lines, *(scales or ())):
        for name, tensor in module.state_dict().items():
            require(
                (tensor.dtype == features.dtype or name == "num_batches_tracked")
                and tensor.device == features.device,
                _OP,
                f"{name} of {module} is {tensor.dtype} on {tensor.device}, "
                f"but features is {features.dtype} on {features.device}",
            )


def _widths(lines: Sequence[nn.Linear]) -> list[int]:
    return [lines[0].in_features, *(line.out_features for line in lines)]


def _standardise(
    features: Tensor,
    lines: Sequence[nn.Linear],
    scales: Sequence[nn.BatchNorm1d] | None,
    product: torch.dtype,
    passes: Passes,
) -> Network:
    """Collect the numbers of the network, layer after layer; in training the running statistics move."""
    norms = [None] * (len(lines) + 1) if scales is None else scales

    def of_features() -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(features.double(), dim=0, correction=0)
        return mean, variance

    mean, inverse, _ = _statistics(norms[0], features[0], of_features, len(features))
    network = Network(mean, inverse, *_affine(norms[0], features[0]), (), product)
    network = network._replace(mean=mean.to(features.dtype), inverse=inverse.to(features.dtype))
    for line, norm in zip(lines, norms[1:], strict=True):
        weight, bias = line.weight.detach().clone(), line.bias.detach()
        one, zero = _affine(None, bias)
        before = network._replace(layers=(*network.layers, Layer(weight, one, zero, one, zero, False)))

        def of_layer(network: Network = before, bias: Tensor = bias) -> tuple[Tensor, Tensor]:
            mean, variance = merge(*passes.moments(features, network))
            return mean + bias, variance

        mean, inverse, from_batch = _statistics(norm, bias, of_layer, len(features))
        shift = ((bias - mean) * inverse).to(bias.dtype)
        layer = Layer(weight, inverse.to(bias.dtype), shift, *_affine(norm, bias), from_batch)
        network = network._replace(layers=(*network.layers, layer))
    return network


def _affine(norm: nn.BatchNorm1d | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gamma and beta; copies, because the optimizer may step before the backward."""
    if norm is None:
        return torch.ones_like(like), torch.zeros_like(like)
    return norm.weight.detach().clone(), norm.bias.detach().clone()


def _statistics(
    norm: nn.BatchNorm1d | None, like: Tensor, moments: Callable[[], tuple[Tensor, Tensor]], num_rows: int
) -> tuple[Tensor, Tensor, bool]:
    """Mean, 1 / sigma, float64, and whether they are those of the rows, which then enter the running ones."""
    if norm is None:
        return torch.zeros_like(like).double(), torch.ones_like(like).double(), False
    from_batch = norm.training or norm.running_mean is None
    if from_batch:
        mean, variance = moments()
        if norm.training and norm.running_mean is not None:
            _track(norm, mean, variance * (num_rows / (num_rows - 1)))
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    return mean, torch.rsqrt(variance + norm.eps), from_batch


def _track(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as `nn.BatchNorm1d` does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _PairMLP(torch.autograd.Function):
    """Results; the parameters are arguments in order to receive gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, network: Network, passes: Passes, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        ctx.network, ctx.passes, ctx.num_parameters = network, passes, len(parameters)
        with torch.autocast(features.device.type, enabled=False):
            return passes.results(features, network).to(network.product)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (features,) = ctx.saved_tensors
        grad = grad.to(features.dtype).contiguous()
        with torch.autocast(features.device.type, enabled=False):
            found = _gradients(features, grad, ctx.network, ctx.passes)
        return None, None, None, *(gradient.to(features.dtype) for gradient in found[: ctx.num_parameters])


def _gradients(features: Tensor, grad: Tensor, network: Network, passes: Passes) -> list[Tensor]:
    """Gradients of weight and bias of the linear layers, then of gamma and beta of the norms; float64."""
    of_lines: list[Tensor] = []
    of_norms: list[Tensor] = []
    corrections: list[Correction] = []
    total = torch.zeros(0)  # of dloss/dz of the layer behind, over all rows
    for level in reversed(range(len(network.layers) + 1)):
        parts = passes.sums(features, grad, network, corrections, level)
        to_beta, to_gamma, to_weight = (part.double().sum(0) for part in parts)
        if level < len(network.layers):
            behind = network.layers[level]
            to_weight = behind.inverse[:, None] * to_weight
            if level == 0:  # it is the sum with x^, which n_0 = gamma_0 x^ + beta_0 follows
                to_gamma, to_beta = (behind.weight * to_weight).sum(0), behind.weight.double().T @ total
                to_weight = to_weight * network.gamma + total[:, None] * network.beta
            of_lines = [to_weight, total, *of_lines]
        of_norms = [to_gamma, to_beta, *of_norms]
        if level > 0:
            layer = network.layers[level - 1]
            shift, slope = (layer.gamma * total / len(features) for total in (to_beta, to_gamma))
            total = layer.inverse * layer.gamma * to_beta
            if layer.from_batch:
                total = torch.zeros_like(total)  # a shift of z changes nothing
            else:
                shift, slope = torch.zeros_like(shift), torch.zeros_like(slope)
            corrections.insert(0, Correction(shift.to(grad.dtype), slope.to(grad.dtype)))
    return of_lines + of_norms


def merge(counts: Sequence[int], means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over all rows from those of G blocks.

    Args:
        counts: Rows of each block, G.
        means: Their means, (G, C).
        variances: Their variances, with the number of rows as divisor, (G, C).

    Returns:
        Mean and variance, (C,) each, float64.
    """
    share = torch.tensor(counts, dtype=torch.float64, device=means.device)[:, None] / sum(counts)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def moments(features: Tensor, network: Network) -> tuple[list[int], Tensor, Tensor]:
    """Moments in plain PyTorch; see `Passes`."""
    found = [
        torch.var_mean(_forward(rows, network)[-1], dim=0, correction=0)
        for rows in torch.split(features, _BLOCK)
    ]
    variances, means = (torch.stack(parts) for parts in zip(*found, strict=True))
    return [len(rows) for rows in torch.split(features, _BLOCK)], means, variances


def results(features: Tensor, network: Network) -> Tensor:
    """Results in plain PyTorch; see `Passes`."""
    last = network.layers[-1]
    return torch.cat([_normed(_forward(rows, network)[-1], last) for rows in torch.split(features, _BLOCK)])


def sums(
    features: Tensor, grad: Tensor, network: Network, corrections: Sequence[Correction], level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of one level of the backward in plain PyTorch; see `Passes`."""
    blocks = zip(torch.split(features, _BLOCK), torch.split(grad, _BLOCK), strict=True)
    found = [_sums_of_block(rows, slopes, network, corrections, level) for rows, slopes in blocks]
    of_grad, of_product, of_weight = (torch.stack(parts) for parts in zip(*found, strict=True))
    return of_grad, of_product, of_weight


def _sums_of_block(
    rows: Tensor, grad: Tensor, network: Network, corrections: Sequence[Correction], level: int
) -> tuple[Tensor, Tensor, Tensor]:
    standard, layers = _forward(rows, network), network.layers
    weight = none = rows.new_zeros(0)
    for number in range(len(layers), level, -1):  # grad is dn_number
        layer, correction = layers[number - 1], corrections[number - 1 - level]
        r = layer.gamma * grad - correction.shift - standard[number] * correction.slope
        if number == level + 1:
            before = (
                standard[0] if level == 0 else functional.gelu(_normed(standard[level], layers[level - 1]))
            )
            weight = _product(r.T, before, network.product)
        if number > 1:
            grad = _product(r * layer.inverse, layer.weight, network.product)
            normed = _normed(standard[number - 1], layers[number - 2])
            grad = torch.ops.aten.gelu_backward(grad, normed)
    return (none, none, weight) if level == 0 else (grad.sum(0), (grad * standard[level]).sum(0), weight)


def _forward(rows: Tensor, network: Network) -> list[Tensor]:
    """x^ and z^ of every layer."""
    standard = [(rows - network.mean) * network.inverse]
    a = standard[0] * network.gamma + network.beta
    for layer in network.layers:
        z = _product(a, layer.weight.T, network.product)
        standard.append(layer.inverse * z + layer.bias)
        a = functional.gelu(_normed(standard[-1], layer))
    return standard


def _normed(standard: Tensor, layer: Layer) -> Tensor:
    return layer.gamma * standard + layer.beta


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Product of matrices whose numbers are rounded to a dtype first."""
    return a.to(dtype).to(a.dtype) @ b.to(dtype).to(b.dtype)


REFERENCE = Passes(moments, results, sums)


def _fits_kernels(features: Tensor, lines: Sequence[nn.Linear]) -> bool:
    return features.is_cuda and features.dtype == torch.float32 and max(_widths(lines)) <= _MAX_WIDTH


@lru_cache(maxsize=1)
def _kernels() -> Passes | None:
    """Triton kernels, if they are wanted and work here."""
    wanted = choice()
    if wanted == "reference":
        return None
    try:
        from hep_shared_cuda import pair_mlp as kernels

        passes = Passes(kernels.moments, kernels.results, kernels.sums)
        _try(passes)
    except Exception as error:  # Triton looks for a driver and a C compiler, each with errors of its own
        reason = " ".join(str(error).split())
        if wanted == "native":
            raise UserError(
                f"{VARIABLE} is 'native', but the Triton kernels of {_OP} cannot be used ({reason}); install "
                f"hep-shared-cuda, Triton and a C compiler, or set {VARIABLE}=auto."
            ) from error
        log.info("%s: Triton cannot be used (%s): PyTorch serves", _OP, reason)
        return None
    return passes


def _try(passes: Passes) -> None:
    """Let a kernel run once, to learn whether it can be compiled."""
    rows = torch.zeros(2, 1, device="cuda")
    one, zero = torch.ones(1, device="cuda"), torch.zeros(1, device="cuda")
    layer = Layer(one[:, None], one, zero, one, zero, False)
    passes.results(rows, Network(zero, one, one, zero, (layer,), torch.float32))
