r"""Lorentz-equivariant linear map between multivectors, with its backward.

A multivector of the spacetime algebra has 16 components in grades of 1, 4, 6, 4 and 1. The linear maps that
commute with proper orthochronous Lorentz transformations keep a grade or turn it into its Hodge dual
(J. Spinner et al., "Lorentz-equivariant geometric algebra transformer", arXiv:2405.14806, Eq. 5):

    y[o, k] = b[o] [k = 0] + sum_i w[o, i, g(k)] x[i, k] + s_k w[o, i, 9 - g(k)] x[i, 15 - k],

g(k) the grade of component k and s_k the sign of its product with the pseudoscalar: component k talks to
itself and to component 15 - k only. As s_k s_(15-k) = -1 for every k, the adjoint is a map of the same kind,

    w'[i, o, g] = w[o, i, g],    w'[i, o, 5 + h] = -w[o, i, 9 - h],    g, h = 0 ... 4,

and the gradient of the coefficients is the sum over rows and over the components of a grade of
grad[o, k] x[i, k], and of s_k grad[o, k] x[i, 15 - k].

Dimension legend: N rows, I channels in, O channels out; 16 components, 10 coefficients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops._backend import must_use_reference, register, require, under_autocast, without_autocast

NUM_COMPONENTS, NUM_COEFFICIENTS = 16, 10
GRADES = (0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4)
# Sign s_k of x[15 - k] in y[k]: product with the pseudoscalar in the basis 1, e0 ... e3, e01, e02, e03, e12,
# e13, e23, e012, e013, e023, e123, e0123 with the metric (+, -, -, -).
DUAL_SIGNS = (-1, -1, -1, 1, -1, -1, 1, -1, 1, -1, 1, 1, -1, 1, 1, 1)
DUAL_ROWS = tuple(9 - grade for grade in GRADES)
MAX_CHANNELS = 4096
_MIN_CHANNELS = 8  # below, the dense matrix is so small that rearranging costs more than it saves
_OP = "equi_linear"


def equi_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map multivectors; differentiable in every tensor.

    Args:
        x: Multivectors, (..., I, 16) float32 or float64.
        weight: Coefficients, grades first, then duals by the grade they read, (O, I, 10).
        bias: Added to the scalar component, (O,).

    Returns:
        Multivectors, (..., O, 16).

    Raises:
        ValueError: A shape, a dtype or a device does not fit.
    """
    if bias is None:
        x, weight = under_autocast(x, weight)
        bias = weight.new_zeros(weight.shape[:1])
    else:
        x, weight, bias = under_autocast(x, weight, bias)
    require(
        x.dim() >= 2 and x.shape[-1] == NUM_COMPONENTS and 1 <= x.shape[-2] <= MAX_CHANNELS,
        _OP,
        f"x must have the shape (..., I, 16) with I from 1 to {MAX_CHANNELS}, not {tuple(x.shape)}",
    )
    require(x.dtype in (torch.float32, torch.float64), _OP, f"x must be float32 or float64, not {x.dtype}")
    channels = x.shape[-2]
    require(
        weight.dim() == 3
        and 1 <= weight.shape[0] <= MAX_CHANNELS
        and weight.shape[1:] == (channels, NUM_COEFFICIENTS),
        _OP,
        f"weight must have the shape (O, {channels}, 10) with O from 1 to {MAX_CHANNELS}, "
        f"not {tuple(weight.shape)}",
    )
    outputs = weight.shape[0]
    require(bias.shape == (outputs,), _OP, f"bias must have the shape ({outputs},), not {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        require(
            tensor.dtype == x.dtype and tensor.device == x.device,
            _OP,
            f"{name} is {tensor.dtype} on {tensor.device}, but x is {x.dtype} on {x.device}",
        )
    run = reference if must_use_reference() else operator
    rows = x.reshape(-1, channels, NUM_COMPONENTS) if x.dim() != 3 else x
    return run(rows, weight, bias).view(*x.shape[:-2], outputs, NUM_COMPONENTS)


def dense_matrix(weight: Tensor) -> Tensor:
    """Write the map as one matrix over channels and components.

    Args:
        weight: Coefficients, (O, I, 10).

    Returns:
        Matrix M with y = M x for x flattened as (channel, component), (16 O, 16 I).
    """
    direct, dual = _by_component(weight)
    identity = torch.eye(NUM_COMPONENTS, dtype=weight.dtype, device=weight.device)
    matrix = direct[..., None] * identity + dual[..., None] * identity.flip(1)  # (O, I, 16, 16)
    return matrix.transpose(1, 2).flatten(2).flatten(0, 1)


@without_autocast
def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map rows in plain PyTorch.

    A GPU, a few channels and an export take the dense matrix. On a CPU the eight pairs (k, 15 - k) are eight
    products of matrices, with an eighth of its multiplications.
    """
    outputs, channels, _ = weight.shape
    pairwise = min(outputs, channels) >= _MIN_CHANNELS and x.device.type == "cpu"
    if not pairwise or torch.compiler.is_exporting():
        shift = functional.pad(bias[:, None], (0, NUM_COMPONENTS - 1)).flatten()
        dense = functional.linear(x.flatten(1), dense_matrix(weight), shift)
        return dense.view(-1, outputs, NUM_COMPONENTS)
    direct, dual = (part.permute(2, 1, 0) for part in _by_component(weight))  # (16, I, O)
    low = torch.cat([direct[:8], dual[:8]], dim=1)
    high = torch.cat([dual.flip(0)[:8], direct.flip(0)[:8]], dim=1)
    both = torch.stack([x[..., :8], x.flip(2)[..., :8]], dim=1)  # (N, 2, I, 8)
    y = torch.bmm(both.flatten(1, 2).permute(2, 0, 1), torch.cat([low, high], dim=2))  # (8, N, 2 O)
    front, back = torch.split(y.permute(1, 2, 0), outputs, dim=1)
    return torch.cat([front, back.flip(2)], dim=2) + functional.pad(bias[:, None], (0, NUM_COMPONENTS - 1))


@without_autocast
def gradient_reference(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the coefficients, (O, I, 10), from rows (N, I, 16) and (N, O, 16), in plain PyTorch."""
    slope, same = grad.permute(2, 1, 0), x.permute(2, 0, 1)
    direct, dual = torch.bmm(slope, same), torch.bmm(slope, same.flip(0))  # (16, O, I)
    dual = dual * x.new_tensor(DUAL_SIGNS)[:, None, None]
    sizes = [GRADES.count(grade) for grade in range(5)]
    by_grade = [part.sum(0) for part in torch.split(direct, sizes)]
    by_grade += [part.sum(0) for part in torch.split(dual, sizes)][::-1]
    return torch.stack(by_grade, dim=2)


def _by_component(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of x[k] and of x[15 - k] in y[k], each (O, I, 16)."""
    return weight[..., list(GRADES)], weight[..., list(DUAL_ROWS)] * weight.new_tensor(DUAL_SIGNS)


def _adjoint(weight: Tensor) -> Tensor:
    """Coefficients of the transposed map, (I, O, 10)."""
    return torch.cat([weight[..., :5], -weight[..., 5:].flip(2)], dim=2).transpose(0, 1)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, _ = ctx.saved_tensors
    to_x, to_weight, to_bias = ctx.needs_input_grad
    return (
        operator(grad, _adjoint(weight), grad.new_zeros(x.shape[1])) if to_x else None,
        gradient_operator(x, grad) if to_weight else None,
        grad[:, :, 0].sum(0) if to_bias else None,
    )


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The coefficients' gradient is linear in both arguments, and the map with it as coefficients."""
    x, slope = ctx.saved_tensors
    to_x, to_slope = ctx.needs_input_grad
    return (
        operator(slope, _adjoint(grad), grad.new_zeros(x.shape[1])) if to_x else None,
        operator(x, grad, grad.new_zeros(slope.shape[1])) if to_slope else None,
    )


def _like_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], NUM_COMPONENTS)


def _like_weight(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], NUM_COEFFICIENTS)


operator = register(
    _OP,
    "(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    reference,
    fake=_like_rows,
    num_rows=1,
    backward=_backward,
)
gradient_operator = register(
    "equi_linear_gradient",
    "(Tensor x, Tensor grad) -> Tensor",
    gradient_reference,
    fake=_like_weight,
    num_rows=0,
    backward=_gradient_backward,
)
