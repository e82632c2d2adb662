r"""Random changes of training events, the same for an event and epoch however the events are batched.

Only the second event of a pile-up depends on the batch: it is the neighbour in it.

On the photon counts n and times t of a sensor, before the normalisation is applied again (primes belong to
another event of the batch):

    energy scaling     n ← f n,  E ← f E,              f uniform in [1 − s, 1 + s], one for the event
    pile-up            n ← n + n', t of the brighter one,  n_gamma ← n_gamma + n_gamma'
    noise              n ← n (1 + σ_r z) + σ_a z'
    time jitter        t ← t + σ_t z
    channel dropout    both become the sentinels of a missing sensor

A count below `npho_threshold` loses its time, as in the normalisation.

Dimensions: B events, S sensors (4760), K components of a target.
"""

import torch
from pydantic import Field
from torch import Tensor

from hep_shared.config import StrictModel
from megii_xec.data.hashing import Purpose, normal, uniform
from megii_xec.data.masking import valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import NUM_SENSORS


class Augmentation(StrictModel):
    """Random changes of the training events; 0 switches one off."""

    channel_dropout: float = Field(0.0, ge=0, lt=1, description="Probability of a sensor to go missing.")
    npho_noise_relative: float = Field(0.0, ge=0, lt=1, description="Relative noise of the counts.")
    npho_noise: float = Field(0.0, ge=0, description="Absolute noise of the counts, in their unit.")
    time_jitter_ns: float = Field(0.0, ge=0, description="Noise of the times.")
    energy_scale: float = Field(0.0, ge=0, lt=1, description="Half width s of the factor on the counts.")
    pileup_probability: float = Field(
        0.0, ge=0, le=1, description="Probability of a second event on top; the batch must hold several."
    )


def augment(
    settings: Augmentation,
    normalization: Normalization,
    sensors: Tensor,
    targets: dict[str, Tensor],
    index: Tensor,
    *,
    seed: int,
    epoch: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Change events.

    Args:
        settings: How much.
        normalization: What the sensors were normalised with.
        sensors: Normalised counts and times, (B, S, 2).
        targets: Truth in physical units, (B, K).
        index: Numbers of the events in the data set, (B,).
        seed: Seed of the run.
        epoch: Epoch, from 0.

    Returns:
        Changed copies of sensors and targets.
    """

    def flat(purpose: Purpose, count: int = NUM_SENSORS) -> Tensor:
        return uniform(seed, epoch, purpose, index, count)

    def gaussian(purpose: Purpose) -> Tensor:
        return normal(seed, epoch, purpose, index, NUM_SENSORS)

    targets = dict(targets)
    valid = valid_sensors(sensors, normalization)
    npho = torch.where(valid, normalization.denormalize_npho(sensors[..., 0]), 0.0)
    time = sensors[..., 1]
    timed = time != normalization.sentinel_time
    if settings.energy_scale:
        factor = 1 + settings.energy_scale * (2 * flat(Purpose.ENERGY, 1) - 1)
        npho = npho * factor
        if "energy" in targets:
            targets["energy"] = targets["energy"] * factor
    if settings.pileup_probability and len(sensors) > 1:
        chosen = flat(Purpose.PILEUP, 1) < settings.pileup_probability
        second, second_timed = npho.roll(1, 0), timed.roll(1, 0)
        later = chosen & second_timed & ((second > npho) | ~timed)
        time, timed = torch.where(later, time.roll(1, 0), time), timed | later
        npho = npho + second * chosen
        if "n_gamma" in targets:
            targets["n_gamma"] = targets["n_gamma"] + targets["n_gamma"].roll(1, 0) * chosen
    if settings.npho_noise_relative or settings.npho_noise:
        noise = gaussian(Purpose.NOISE)
        size = ((settings.npho_noise_relative * npho).square() + settings.npho_noise**2).sqrt()
        npho = npho + noise * size
    if settings.time_jitter_ns:
        time = time + gaussian(Purpose.TIME) * (settings.time_jitter_ns * 1e-9 / normalization.time_scale_s)
    if settings.channel_dropout:
        valid = valid & (flat(Purpose.DROPOUT) >= settings.channel_dropout)
    timed = timed & valid & (npho >= normalization.npho_threshold)
    x = torch.where(valid, normalization.normalize_npho(npho), normalization.sentinel_npho)
    y = torch.where(timed, time, normalization.sentinel_time)
    return torch.stack([x, y], dim=-1), targets
