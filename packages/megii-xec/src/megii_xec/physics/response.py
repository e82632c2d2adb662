r"""What the sensors and their electronics make of the light.

    N_pe  ~ Poisson(n eps),   eps = PDE (MPPC) or QE (PMT), spread by 10 % from sensor to sensor,
    nphe  = N_pe + noise,     noise 1.5 p.e.,
    npho  = nphe / eps (1 + delta),   delta the error of the sensor's calibration, 4 %,
    time  = t_photon + arrival + tau / N_pe + N(0, 0.2 ns (+) 10 ns / sqrt(N_pe)) + common jitter,

with tau = 45 ns, the decay time of xenon light: the first of N_pe photons comes tau / N_pe after the start.
Efficiencies, calibration errors and dead channels belong to the detector, not to the event, and are drawn
once from `detector_seed`.

Dimensions: B events, S sensors.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import geometry as geo
from megii_xec.physics.parameters import SimulationConfig

Float32Array = NDArray[np.float32]


class Detector(NamedTuple):
    """One realisation of the sensors. Dimension: S sensors."""

    efficiency: Float32Array  # (S,) photoelectrons per photon
    calibration: Float32Array  # (S,) factor from photoelectrons to the stored number of photons
    alive: NDArray[np.bool_]  # (S,)


def build_detector(config: SimulationConfig) -> Detector:
    """Draw the sensors that belong to `config.detector_seed`.

    Args:
        config: Efficiencies, their spreads and the faults.

    Returns:
        The detector; the same for the same configuration.
    """
    rng = np.random.default_rng([config.detector_seed, 0x7E0])
    nominal = np.where(geo.is_mppc(), config.mppc_pde * config.pde_scale, config.pmt_qe)
    # Spreads are cut at three sigma so that no efficiency comes near zero.
    spread, error = np.clip(rng.standard_normal((2, geo.NUM_SENSORS)), -3, 3)
    efficiency = nominal * (1 + config.pde_spread * spread)
    calibration = (1 + config.calibration_spread * error) / efficiency

    alive = rng.random(geo.NUM_SENSORS) >= config.dead_fraction
    inner = geo.inner_index_map()
    side = config.dead_cluster_size
    for _ in range(config.num_dead_clusters):
        row = rng.integers(inner.shape[0] - side, endpoint=True)
        column = rng.integers(inner.shape[1] - side, endpoint=True)
        alive[inner[row : row + side, column : column + side]] = False
    return Detector(efficiency.astype(np.float32), calibration.astype(np.float32), alive)


class Readout(NamedTuple):
    """Measured quantities, NaN where missing. Dimensions: B events, S sensors."""

    npho: Float32Array  # (B, S) photons
    nphe: Float32Array  # (B, S) photoelectrons; what a dead sensor would have seen
    time_ns: Float32Array  # (B, S)


def read_out(
    config: SimulationConfig,
    detector: Detector,
    light: Float32Array,
    arrival_ns: Float32Array,
    rng: np.random.Generator,
) -> Readout:
    """Turn light into charge and time.

    Args:
        config: Noise and timing parameters.
        detector: The sensors.
        light: Mean number of photons on each sensor, shape (B, 4760).
        arrival_ns: Mean arrival of the light in the readout window, shape (B, 4760), ns.
        rng: Source of random numbers.

    Returns:
        Charges and times, shape (B, 4760). Dead sensors have no charge; dead sensors and pulses below
        `pulse_threshold_npe` have no time.
    """
    shape = light.shape
    npe = rng.poisson(light * detector.efficiency).astype(np.float32)
    nphe = npe + np.float32(config.noise_npe) * rng.standard_normal(shape, dtype=np.float32)
    npho = np.where(detector.alive, nphe * detector.calibration, np.float32(np.nan))

    safe = np.maximum(npe, np.float32(1))
    resolution = np.sqrt(config.sensor_time_ns**2 + config.sensor_time_stochastic_ns**2 / safe)
    time_ns = arrival_ns + config.first_photon_ns / safe
    time_ns += resolution * rng.standard_normal(shape, dtype=np.float32)
    time_ns += config.event_time_ns * rng.standard_normal((shape[0], 1), dtype=np.float32)
    seen = detector.alive & (npe >= 1) & (nphe >= config.pulse_threshold_npe)
    time_ns = np.where(seen, time_ns, np.float32(np.nan))
    return Readout(npho, nphe, time_ns.astype(np.float32))
