"""Photon events from the source to the readout, in chunks.

One event is traced at a time so that its clumps x sensors arrays stay in the processor's cache; source,
shower and readout are drawn for the whole chunk.

Dimensions: B events, S sensors.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import UserError
from megii_xec.physics import geometry as geo
from megii_xec.physics.optics import light_on_sensors
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.reconstruction import MIN_NPE_FOR_TIME
from megii_xec.physics.response import Detector, Readout, build_detector, read_out
from megii_xec.physics.shower import sample_showers
from megii_xec.physics.solid_angle import sensor_view
from megii_xec.physics.source import Photons, sample_photons

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]

# Part of the definition of a data set: the order of random draws depends on it.
CHUNK_EVENTS = 64
# Chunks in a row without a recorded event after which the parameters are taken to describe a blind detector.
MAX_EMPTY_CHUNKS = 4


class PhotonEvents(NamedTuple):
    """A chunk of simulated events: truth and measurement."""

    photons: Photons
    time_ns: FloatArray  # (B,) first interaction in the readout window
    readout: Readout
    solid_angle: Float32Array  # (B, S) sr, from the first interaction
    num_gamma: NDArray[np.int64]  # (B,) photons in the readout window


def _light(
    config: SimulationConfig, photons: Photons, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Photons on the sensors and their arrival (ns) after the first interaction, shape (B, S) each."""
    clumps = sample_showers(config, photons, rng)
    num = len(photons.energy_mev)
    light, arrival = np.empty((2, num, geo.NUM_SENSORS), dtype=np.float32)
    for event in range(num):
        part = slice(clumps.start[event], clumps.start[event + 1])
        light[event], arrival[event] = light_on_sensors(
            config, clumps.position[part], clumps.energy_mev[part], clumps.time_ns[part]
        )
    return light, arrival


def simulate_chunk(
    config: SimulationConfig, detector: Detector, num_events: int, rng: np.random.Generator
) -> PhotonEvents:
    """Simulate events.

    A second photon (pile-up) adds its light to the charge of every sensor. The pulse time follows the photon
    that gives the sensor more light.

    Args:
        config: All parameters.
        detector: The sensors, see `build_detector`.
        num_events: Number of events B.
        rng: Source of random numbers.

    Returns:
        The events.
    """
    photons = sample_photons(config, num_events, rng)
    phase = rng.uniform(-0.5, 0.5, num_events) * config.sampling_phase_ns
    time_ns = config.trigger_offset_ns + phase
    light, arrival = _light(config, photons, rng)

    piled_up = np.flatnonzero(rng.random(num_events) < config.pileup_probability)
    if len(piled_up):
        second = sample_photons(config, len(piled_up), rng)
        delay = rng.exponential(config.pileup_delay_ns, (len(piled_up), 1)).astype(np.float32)
        more_light, later = _light(config, second, rng)
        brighter = more_light > light[piled_up]
        arrival[piled_up] = np.where(brighter, later + delay, arrival[piled_up])
        light[piled_up] += more_light

    arrival += time_ns[:, None].astype(np.float32)
    readout = read_out(config, detector, light, arrival, rng)
    num_gamma = np.ones(num_events, dtype=np.int64)
    num_gamma[piled_up] = 2
    return PhotonEvents(photons, time_ns, readout, sensor_view(photons.conversion)[1], num_gamma)


def iter_events(
    config: SimulationConfig, num_events: int, rng: np.random.Generator
) -> Iterator[PhotonEvents]:
    """Simulate chunks of `CHUNK_EVENTS` events and keep what the detector records.

    Args:
        config: All parameters.
        num_events: Total number of recorded events.
        rng: Source of random numbers.

    Yields:
        Chunks in order, of at most `CHUNK_EVENTS` events.

    Raises:
        UserError: If no photon makes a pulse that can be timed, `MAX_EMPTY_CHUNKS` chunks in a row.
    """
    detector = build_detector(config)
    missing, empty = num_events, 0
    while missing:
        events = simulate_chunk(config, detector, CHUNK_EVENTS, rng)
        recorded = np.flatnonzero(triggers(events.readout))[:missing]
        missing -= len(recorded)
        empty = 0 if len(recorded) else empty + 1
        if len(recorded):
            yield take(events, recorded)
        elif empty == MAX_EMPTY_CHUNKS:
            raise UserError(
                f"None of {empty * CHUNK_EVENTS} photons gave a sensor more than {MIN_NPE_FOR_TIME:g} "
                f"photoelectrons; raise photons_per_mev ({config.photons_per_mev:g})."
            )


def triggers(readout: Readout) -> NDArray[np.bool_]:
    """Whether the detector records an event: a sensor has a pulse that can be timed.

    A photon that converts at the back wall can lose all its light; nothing would start the readout.

    Args:
        readout: Measurements of B events.

    Returns:
        True where recorded, shape (B,).
    """
    timed = (readout.nphe > MIN_NPE_FOR_TIME) & np.isfinite(readout.time_ns)
    return np.asarray(timed.any(axis=1))


def take(events: PhotonEvents, rows: NDArray[np.int64]) -> PhotonEvents:
    """Pick events out of a chunk.

    Args:
        events: B events.
        rows: Numbers of the wanted ones.

    Returns:
        Those events.
    """
    return PhotonEvents(
        Photons(*(values[rows] for values in events.photons)),
        events.time_ns[rows],
        Readout(*(values[rows] for values in events.readout)),
        events.solid_angle[rows],
        events.num_gamma[rows],
    )
