r"""Bin the objects of events into integers.

An edge counts for every value at or above it. With #(x) the number of edges of a quantity at or below its
value, b bins of each quantity and no bin of E (with one, b³ (id - 1) becomes b⁴ (id - 1) + b³ #(E), and 7 b³
becomes 7 b⁴),

    token     = 1 + b³ (id - 1) + b² #(pT) + b #(η) + #(φ),     0 where id = 0,
    token_MET = 1 + 7 b³ + #(MET),      token_METφ = 1 + 7 b³ + b + #(METφ).

A value that is not a number passes no edge. For ascending edges, #(x) is what `numpy.digitize` gives for
every number. Folded azimuths are compared as |φ|.

Dimension legend: N events, P objects.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hep_shared.ops._backend import must_use_reference, register, require

NUM_IDS = 7
MAX_BINS = 16  # of each quantity; every token then fits into 32 bits
MAX_OBJECTS = 1024
_OP = "event_tokens"


def event_tokens(
    features: Tensor,
    missing: Tensor,
    ids: Tensor,
    *,
    energy_edges: Sequence[float] | None,
    pt_edges: Sequence[float],
    eta_edges: Sequence[float],
    phi_edges: Sequence[float],
    met_edges: Sequence[float],
    num_bins: int,
    fold_phi: bool = False,
) -> Tensor:
    """Turn events into tokens.

    Args:
        features: E, pT, η, φ of each object, (N, P, 4) float32 or float64, in the units of the edges.
        missing: Missing transverse momentum and its azimuth, (N, 2), same dtype and device.
        ids: Kind of each object from 1 to 7, 0 where there is none, (N, P) int8, same device.
        energy_edges: Edges of E, at most num_bins - 1; None for tokens without E.
        pt_edges: Edges of pT.
        eta_edges: Edges of η.
        phi_edges: Edges of φ, also of the missing momentum.
        met_edges: Edges of the missing momentum.
        num_bins: Bins b, from 2 to 16.
        fold_phi: Compare |φ|.

    Returns:
        P objects, missing momentum, its azimuth: (N, P + 2) int64.

    Raises:
        ValueError: A shape, a dtype, a device, the edges or the number of bins does not fit.
    """
    require(
        features.dim() == 3 and features.shape[2] == 4 and features.shape[1] <= MAX_OBJECTS,
        _OP,
        f"features must have the shape (N, P, 4) with P up to {MAX_OBJECTS}, not {tuple(features.shape)}",
    )
    require(
        features.dtype in (torch.float32, torch.float64),
        _OP,
        f"features must be float32 or float64, not {features.dtype}",
    )
    events, objects = features.shape[:2]
    require(
        missing.shape == (events, 2), _OP,
        f"missing must have the shape ({events}, 2), not {tuple(missing.shape)}",
    )  # fmt: skip
    require(
        ids.shape == (events, objects), _OP,
        f"ids must have the shape ({events}, {objects}), not {tuple(ids.shape)}",
    )  # fmt: skip
    for name, tensor, dtype in (("missing", missing, features.dtype), ("ids", ids, torch.int8)):
        require(
            tensor.dtype == dtype and tensor.device == features.device,
            _OP,
            f"{name} must be {dtype} on {features.device}, not {tensor.dtype} on {tensor.device}",
        )
    require(2 <= num_bins <= MAX_BINS, _OP, f"num_bins must be from 2 to {MAX_BINS}, not {num_bins}")
    edges = [list(e) for e in (energy_edges or (), pt_edges, eta_edges, phi_edges, met_edges)]
    for name, values in zip(("energy", "pt", "eta", "phi", "met"), edges, strict=True):
        require(
            len(values) < num_bins and all(math.isfinite(value) for value in values),
            _OP,
            f"{name}_edges must be at most {num_bins - 1} finite numbers for {num_bins} bins, not {values}",
        )
    energy, pt, eta, phi, met = edges
    run = reference if must_use_reference() else operator
    return run(
        features, missing, ids, energy, pt, eta, phi, met, num_bins, energy_edges is not None, fold_phi
    )


def reference(
    features: Tensor,
    missing: Tensor,
    ids: Tensor,
    energy_edges: Sequence[float],
    pt_edges: Sequence[float],
    eta_edges: Sequence[float],
    phi_edges: Sequence[float],
    met_edges: Sequence[float],
    num_bins: int,
    with_energy: bool,
    fold_phi: bool,
) -> Tensor:
    """Bin in plain PyTorch."""
    energy, pt, eta, phi = features.unbind(-1)
    met, met_phi = missing.unbind(-1)
    if fold_phi:
        phi, met_phi = phi.abs(), met_phi.abs()
    tokens = ids.long() - 1
    columns = [(pt, pt_edges), (eta, eta_edges), (phi, phi_edges)]
    for values, edges in ([(energy, energy_edges)] if with_energy else []) + columns:
        tokens = tokens * num_bins + _passed(values, edges)
    objects = torch.where(ids != 0, tokens + 1, 0)
    first = 1 + NUM_IDS * num_bins ** (4 if with_energy else 3)
    rest = [first + _passed(met, met_edges), first + num_bins + _passed(met_phi, phi_edges)]
    return torch.cat([objects, torch.stack(rest, dim=1)], dim=1)


def _passed(values: Tensor, edges: Sequence[float]) -> Tensor:
    """Number of edges at or below each value."""
    bins = torch.zeros_like(values, dtype=torch.long)
    for edge in edges:
        bins = bins + (values >= edge)
    return bins


def _fake(features: Tensor, missing: Tensor, ids: Tensor, *numbers: object) -> Tensor:
    return features.new_empty((features.shape[0], features.shape[1] + 2), dtype=torch.long)


operator = register(
    _OP,
    "(Tensor features, Tensor missing, Tensor ids, float[] energy_edges, float[] pt_edges, "
    "float[] eta_edges, float[] phi_edges, float[] met_edges, int num_bins, bool with_energy, bool fold_phi) "
    "-> Tensor",
    reference,
    fake=_fake,
    num_rows=3,
    backward=None,
)
