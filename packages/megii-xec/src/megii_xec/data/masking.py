"""Which sensors are hidden from a network: masks for pre-training and maps of dead channels.

Only sensors with a measurement can be hidden, because only there is something to compare with:

    num_masked = floor(ratio x num_valid),      actual_mask_ratio = num_masked / num_valid

Sensors are drawn without replacement with probabilities proportional to weights w by sorting exponential
waiting times, -ln(u) / w (P. Efraimidis, P. Spirakis, Inf. Process. Lett. 97 (2006) 181). The weights prefer
sensors with a time (`time_scale`), or make the masked counts flat in ln(npho) (`log_flat`), so that the few
bright sensors are not outvoted by thousands of dim ones.

Dimensions: B events, S sensors (4760), D dead channels.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hep_shared.config import StrictModel
from hep_shared.errors import InputFileError
from hep_shared.files import reader_boundary
from megii_xec.data.normalization import Normalization
from megii_xec.physics.geometry import NUM_SENSORS, Face, face_ids
from megii_xec.physics.neighbors import nearest_on_face

Preference = Literal["uniform", "log_flat"]

_BINS_PER_DECADE, _NUM_DECADES = 4, 6  # of npho, from 1 to 10^6


class RandomDead(StrictModel):
    """Sensors that die independently, others in every event."""

    kind: Literal["random"] = "random"
    fraction: float = Field(0.05, gt=0, lt=1, description="Share of the live sensors that is hidden.")


class ClusteredDead(StrictModel):
    """Groups of neighbours that die together, as behind one cable, others in every event."""

    kind: Literal["clustered"] = "clustered"
    fraction: float = Field(0.05, gt=0, lt=1, description="Share of the live sensors that is hidden.")
    cluster_size: int = Field(9, ge=2, le=73, description="Neighbouring sensors in a group.")


class FileDead(StrictModel):
    """The dead channels of a run period, the same in every event."""

    kind: Literal["file"] = "file"
    path: Path = Field(description="Text file with one sensor number a line; # starts a comment.")


DeadChannels = Annotated[RandomDead | ClusteredDead | FileDead, Field(discriminator="kind")]


def valid_sensors(sensors: Tensor, normalization: Normalization) -> Tensor:
    """Tell which sensors have a measurement.

    A sentinel of 0 cannot be told from no light; there the sensors without a time count as invalid, as in
    the networks that were trained with it.

    Args:
        sensors: Normalised counts and times, (B, S, 2).
        normalization: What they were normalised with.

    Returns:
        True where there is a count, (B, S) bool.
    """
    if normalization.sentinel_npho == 0:
        return sensors[..., 1] != normalization.sentinel_time
    return sensors[..., 0] != normalization.sentinel_npho


def draw(candidates: Tensor, number: Tensor, uniforms: Tensor, weights: Tensor | None = None) -> Tensor:
    """Choose sensors without replacement.

    Args:
        candidates: Which may be chosen, (B, S) bool.
        number: How many of each event; where there are fewer candidates, all of them. (B,) int64.
        uniforms: Random numbers in (0, 1), (B, S).
        weights: Relative probabilities, (B, S); None for equal ones.

    Returns:
        Chosen sensors, (B, S) bool.
    """
    waiting = -uniforms.log()
    if weights is not None:
        waiting = waiting / weights
    order = waiting.masked_fill(~candidates, torch.inf).argsort(dim=1, stable=True)
    first = torch.arange(candidates.shape[1], device=candidates.device) < number[:, None]
    return torch.zeros_like(candidates).scatter(1, order, first) & candidates


def masking_weights(
    sensors: Tensor, normalization: Normalization, *, preference: Preference, time_scale: float
) -> Tensor | None:
    """Weights of the sensors in the draw.

    Args:
        sensors: Normalised counts and times, (B, S, 2).
        normalization: What they were normalised with.
        preference: `uniform`, or `log_flat` for masked counts that are flat in their logarithm.
        time_scale: Factor on sensors that have a time.

    Returns:
        Weights, (B, S), or None if all are equal.
    """
    weights: Tensor | None = None
    if preference == "log_flat":
        npho = normalization.denormalize_npho(sensors[..., 0].float())
        if normalization.npho_input == "relative_npho":
            npho = npho * 1e4  # of the order of the brightest sensor, so that the decades mean the same
        bins = (npho.clamp_min(1.0).log10() * _BINS_PER_DECADE).long()
        bins = bins.clamp(0, _BINS_PER_DECADE * _NUM_DECADES - 1)
        counted = valid_sensors(sensors, normalization).float()
        content = counted.new_zeros(len(sensors), _BINS_PER_DECADE * _NUM_DECADES)
        content.scatter_add_(1, bins, counted)
        weights = 1 / content.gather(1, bins).clamp_min(1)
    if time_scale != 1:
        timed = torch.where(sensors[..., 1] != normalization.sentinel_time, time_scale, 1.0)
        weights = timed if weights is None else weights * timed
    return weights


def draw_mask(
    sensors: Tensor,
    normalization: Normalization,
    uniforms: Tensor,
    *,
    ratio: float,
    ratio_by_face: Mapping[Face, float] | None = None,
    preference: Preference = "uniform",
    time_scale: float = 1.0,
) -> Tensor:
    """Choose the sensors that a masked autoencoder has to guess.

    Args:
        sensors: Normalised counts and times, (B, S, 2).
        normalization: What they were normalised with.
        uniforms: Random numbers in (0, 1), (B, S).
        ratio: Share of the valid sensors.
        ratio_by_face: Faces with a share of their own.
        preference: See `masking_weights`.
        time_scale: See `masking_weights`.

    Returns:
        Masked sensors, all of them valid, (B, S) bool.
    """
    valid = valid_sensors(sensors, normalization)
    weights = masking_weights(sensors, normalization, preference=preference, time_scale=time_scale)
    elsewhere = torch.ones(NUM_SENSORS, dtype=torch.bool, device=sensors.device)
    mask = torch.zeros_like(valid)
    for face, own in (ratio_by_face or {}).items():
        on_face = torch.zeros_like(elsewhere)
        on_face[torch.from_numpy(face_ids(face).copy()).to(sensors.device)] = True
        elsewhere &= ~on_face
        mask |= draw(valid & on_face, _share(valid & on_face, own), uniforms, weights)
    return mask | draw(valid & elsewhere, _share(valid & elsewhere, ratio), uniforms, weights)


def _share(candidates: Tensor, ratio: float) -> Tensor:
    return (candidates.sum(1).double() * ratio + 1e-9).long()


def read_dead_map(path: Path) -> NDArray[np.int64]:
    """Read the numbers of dead sensors.

    Args:
        path: Text file with one sensor number a line; `#` starts a comment.

    Returns:
        Sorted sensor numbers without repetition, (D,).

    Raises:
        InputFileError: The file is missing, empty, or holds something that is no sensor number.
    """
    remedy = f"give one sensor number from 0 to {NUM_SENSORS - 1} a line"
    with reader_boundary(path, remedy=remedy):
        lines = path.read_text(encoding="utf-8").splitlines()
    numbers = set()
    for place, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not text.isdecimal() or int(text) >= NUM_SENSORS:
            raise InputFileError(path, f"holds '{text[:40]}' in line {place}, which is no sensor", remedy)
        numbers.add(int(text))
    if not numbers:
        raise InputFileError(path, "names no sensor", remedy)
    return np.array(sorted(numbers), dtype=np.int64)


@lru_cache(maxsize=8)
def _listed(path: Path) -> Tensor:
    """Map of a file as (S,) bool; read once in a process."""
    hidden = torch.zeros(NUM_SENSORS, dtype=torch.bool)
    hidden[torch.from_numpy(read_dead_map(path))] = True
    return hidden


def draw_dead(
    dead: RandomDead | ClusteredDead | FileDead,
    sensors: Tensor,
    normalization: Normalization,
    uniforms: Tensor,
) -> Tensor:
    """Choose the sensors that an inpainter has to fill in.

    Args:
        dead: Which map.
        sensors: Normalised counts and times, (B, S, 2).
        normalization: What they were normalised with.
        uniforms: Random numbers in (0, 1), (B, S); not used by a map from a file.

    Returns:
        Hidden sensors, all of them valid, (B, S) bool.
    """
    valid = valid_sensors(sensors, normalization)
    if isinstance(dead, FileDead):
        return valid & _listed(dead.path).to(sensors.device)
    if isinstance(dead, RandomDead):
        return draw(valid, _share(valid, dead.fraction), uniforms)
    number = (valid.sum(1) * dead.fraction / dead.cluster_size).round().long().clamp_min(1)
    centres = draw(valid, number, uniforms)
    table = torch.from_numpy(nearest_on_face(dead.cluster_size).copy()).to(sensors.device)
    event, centre = centres.nonzero(as_tuple=True)
    hidden = torch.zeros_like(valid)
    hidden[event[:, None], table[centre]] = True
    return hidden & valid
