r"""Binned tokens: an object becomes one integer.

With b bins of each quantity and 7 object ids, all bins counted from 1,

    token    = b³ (id - 1) + b² (bin_pT - 1) + b (bin_η - 1) + bin_φ        in [1, 7 b³]
    token_MET = 7 b³ + bin_MET,      token_METφ = 7 b³ + b + bin_METφ,      0 = padding,

so b = 5 gives a vocabulary of 1 + 875 + 5 + 5 = 886. `with_energy` puts a bin of E between id and pT (4,375
object tokens). pT, η, E and the missing momentum have quantile edges from training objects.

Azimuth. `full` cuts [-π, π) into b bins of 2π/b. `folded` cuts |φ| into bins of π/b, the one reading of a
width π/5 in which five bins cover everything. `legacy` counts bins of π/b from -π and puts all that follows
into the last: 60 % of the objects for b = 5.

Edges. `quantile` fills all bins evenly. `legacy` clips the bin number 0 … b-1 to 1 … b instead of adding 1:
the first bin takes two fifths and bin b is never used.

N events.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet
from hep_shared.config import StrictModel
from hep_shared.errors import UserError

PhiMode = Literal["full", "folded", "legacy"]
EdgeMode = Literal["quantile", "legacy"]
FitOn = Literal["all", "background"]
Backend = Literal["native", "numpy"]

_BLOCK = 2048  # events whose columns stay in the second-level cache


class Vocabulary(StrictModel):
    """The numbering of tokens."""

    num_bins: int = Field(5, ge=2, le=16, description="bins of each quantity")
    with_energy: bool = Field(False, description="bin E too")

    @property
    def num_object_tokens(self) -> int:
        """Number of different tokens of an object."""
        return schema.NUM_IDS * self.num_bins ** (4 if self.with_energy else 3)

    @property
    def size(self) -> int:
        """Number of different tokens, padding included."""
        return 1 + self.num_object_tokens + 2 * self.num_bins

    @property
    def object_fields(self) -> tuple[str, ...]:
        """What an object token says, the slowest first."""
        return ("id", "energy", "pt", "eta", "phi") if self.with_energy else ("id", "pt", "eta", "phi")

    def decode(self, tokens: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
        """Take tokens apart.

        Args:
            tokens: (N, 20).

        Returns:
            Bin numbers from 1, 0 for padding: `id`, `pt`, `eta`, `phi` (and `energy`) of (N, 18), `met` and
            `met_phi` of (N,).
        """
        objects = tokens[:, : schema.NUM_OBJECTS].astype(np.int64)
        rest, present = objects - 1, objects != schema.PAD
        fields: dict[str, NDArray[np.int64]] = {}
        for name in reversed(self.object_fields[1:]):
            rest, bins = np.divmod(rest, self.num_bins)
            fields[name] = np.asarray((bins + 1) * present)
        fields["id"] = (rest + 1) * present
        fields["met"] = tokens[:, -2].astype(np.int64) - self.num_object_tokens
        fields["met_phi"] = tokens[:, -1].astype(np.int64) - self.num_object_tokens - self.num_bins
        return {name: fields[name] for name in (*self.object_fields, "met", "met_phi")}


class Binning(StrictModel):
    """A fitted binning; edges are numbers that float32 holds exactly."""

    vocabulary: Vocabulary = Vocabulary()
    phi_mode: PhiMode = Field("full", description="how azimuths are binned")
    edge_mode: EdgeMode = Field("quantile", description="`legacy` reproduces the off-by-one of the reference")
    fit_on: FitOn = Field("all", description="training events whose objects gave the edges")
    pt_edges: tuple[float, ...] = Field(description="inner edges in GeV")
    eta_edges: tuple[float, ...] = Field(description="inner edges")
    energy_edges: tuple[float, ...] = Field((), description="inner edges in GeV, empty unless E is binned")
    met_edges: tuple[float, ...] = Field(description="inner edges in GeV")

    @classmethod
    def fit(
        cls,
        train: EventSet,
        *,
        num_bins: int = 5,
        with_energy: bool = False,
        phi_mode: PhiMode = "full",
        edge_mode: EdgeMode = "quantile",
        fit_on: FitOn = "all",
    ) -> Self:
        """Take quantiles of the training objects.

        Args:
            train: The train split, never another.
            num_bins: Bins of each quantity.
            with_energy: Whether to bin E too.
            phi_mode: How azimuths are binned.
            edge_mode: `quantile`, or `legacy` for the bin numbers of the reference.
            fit_on: `all` events or only the `background`.

        Returns:
            The binning.

        Raises:
            UserError: There is no event to fit on, or a quantity has too few different values.
        """
        events = train if fit_on == "all" else train[~train.is_signal]
        objects = events.features[events.valid_mask]
        if not len(objects):
            raise UserError(
                f"There is no object in the {fit_on} events to fit bins on; give more train events."
            )
        return cls(
            vocabulary=Vocabulary(num_bins=num_bins, with_energy=with_energy),
            phi_mode=phi_mode,
            edge_mode=edge_mode,
            fit_on=fit_on,
            pt_edges=_quantiles("pT", objects[:, schema.PT], num_bins),
            eta_edges=_quantiles("eta", objects[:, schema.ETA], num_bins),
            energy_edges=_quantiles("E", objects[:, schema.ENERGY], num_bins) if with_energy else (),
            met_edges=_quantiles("the missing momentum", events.missing[:, 0], num_bins),
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The binning.
        """
        return cls.model_validate(json.loads(text))

    def to_json(self) -> str:
        """Write the binning as JSON.

        Returns:
            One line.
        """
        return self.model_dump_json()

    @property
    def phi_edges(self) -> NDArray[np.float32]:
        """Inner edges of the azimuth, or of its absolute value in mode `folded`, in rad."""
        num_bins = self.vocabulary.num_bins
        width = (2 * np.pi if self.phi_mode == "full" else np.pi) / num_bins
        start = 0.0 if self.phi_mode == "folded" else -np.pi
        return (start + width * np.arange(1, num_bins)).astype(np.float32)

    @property
    def operator_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `hep_shared.ops.tokens.event_tokens` for this binning."""
        # Bins that are clipped from below instead of counted from 1 are as if there were no first edge.
        first = 1 if self.edge_mode == "legacy" else 0
        return {
            "energy_edges": self.energy_edges[first:] if self.vocabulary.with_energy else None,
            "pt_edges": self.pt_edges[first:],
            "eta_edges": self.eta_edges[first:],
            "phi_edges": self.phi_edges.tolist(),
            "met_edges": self.met_edges[first:],
            "num_bins": self.vocabulary.num_bins,
            "fold_phi": self.phi_mode == "folded",
        }

    def transform(self, events: EventSet, backend: Backend | None = None) -> NDArray[np.int64]:
        """Turn events into tokens.

        Args:
            events: Any split.
            backend: Implementation, which makes no difference to the tokens; None for the fastest.

        Returns:
            18 objects, missing momentum, its azimuth: (N, 20) int64 in [0, vocabulary size).
        """
        if (backend or native_backend()) == "native":
            return _operator_tokens(events, self.operator_arguments)
        tokens = np.empty((len(events), schema.NUM_TOKENS), np.int64)
        for start in range(0, len(events), _BLOCK):
            block = slice(start, start + _BLOCK)
            tokens[block, : schema.NUM_OBJECTS] = self._object_tokens(
                events.ids[block], events.features[block]
            )
            tokens[block, schema.NUM_OBJECTS :] = self._missing_tokens(events.missing[block])
        return tokens

    def _object_tokens(self, ids: NDArray[np.int8], features: NDArray[np.float32]) -> NDArray[Any]:
        fields = [(schema.PT, self.pt_edges), (schema.ETA, self.eta_edges)]
        if self.vocabulary.with_energy:
            fields.insert(0, (schema.ENERGY, self.energy_edges))
        num_bins = self.vocabulary.num_bins
        tokens: NDArray[Any] = ids.astype(np.int16 if self.vocabulary.size < 2**15 else np.int32)
        tokens -= 1
        for feature, edges in fields:
            tokens *= num_bins
            tokens += self._quantile_bins(features[:, :, feature], edges)
        tokens *= num_bins
        tokens += self._phi_bins(features[:, :, schema.PHI])
        tokens += 1
        tokens *= ids != schema.PAD
        return tokens

    def _missing_tokens(self, missing: NDArray[np.float32]) -> NDArray[np.int64]:
        met, met_phi = self._quantile_bins(missing[:, 0], self.met_edges), self._phi_bins(missing[:, 1])
        tokens = np.stack([met, met_phi], axis=1).astype(np.int64)
        tokens += 1 + self.vocabulary.num_object_tokens
        tokens[:, 1] += self.vocabulary.num_bins
        return tokens

    def _quantile_bins(self, values: NDArray[np.float32], edges: tuple[float, ...]) -> NDArray[np.uint8]:
        bins = count_edges(values, edges)
        return np.asarray(bins - (bins > 0) if self.edge_mode == "legacy" else bins)

    def _phi_bins(self, phi: NDArray[np.float32]) -> NDArray[np.uint8]:
        return count_edges(np.abs(phi) if self.phi_mode == "folded" else phi, self.phi_edges)


def native_backend() -> Backend:
    """Which implementation `Binning.transform` uses.

    Returns:
        `native` where compiled kernels are installed and torch is loaded: importing it for them alone would
        take longer than NumPy needs for the whole public file.
    """
    if "torch" not in sys.modules:
        return "numpy"
    from hep_shared.ops import _backend

    return "numpy" if _backend.backend() == "reference" else "native"


def _operator_tokens(events: EventSet, arguments: dict[str, Any]) -> NDArray[np.int64]:
    import torch

    from hep_shared.ops.tokens import event_tokens

    columns = (
        torch.from_numpy(np.ascontiguousarray(a)) for a in (events.features, events.missing, events.ids)
    )
    return np.asarray(event_tokens(*columns, **arguments))


def count_edges(values: NDArray[np.float32], edges: Iterable[float]) -> NDArray[np.uint8]:
    """Number of edges at or below each value, as `numpy.digitize` counts them.

    One comparison an edge beats the binary search of `digitize` for as few edges as these, since it runs
    through vector units without a branch.

    Args:
        values: Finite values.
        edges: At most 255 edges in ascending order, exact in float32.

    Returns:
        Bins from 0, with the shape of `values`.
    """
    values = np.ascontiguousarray(values, np.float32)
    bins = np.zeros(values.shape, np.uint8)
    passed = np.empty(values.shape, np.bool_)
    for edge in edges:
        np.greater_equal(values, np.float32(edge), out=passed)
        bins += passed.view(np.uint8)
    return bins


def _quantiles(name: str, values: NDArray[np.float32], num_bins: int) -> tuple[float, ...]:
    edges = np.quantile(values, np.arange(1, num_bins) / num_bins).astype(np.float32)
    if (np.diff(edges) <= 0).any():
        raise UserError(
            f"{num_bins} bins do not fit the {len(np.unique(values))} different values of {name} in the "
            "train split; give more train events or fewer bins."
        )
    return tuple(float(edge) for edge in edges)
