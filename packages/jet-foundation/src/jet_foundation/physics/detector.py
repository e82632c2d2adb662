r"""A CMS-like detector in a few array operations: tracker, calorimeters, energy flow.

    helix     r = pT / (0.3 B)                 (B in T, r in m, pT in GeV), to the wall of the tracker
    tracks    found with ε(pT, η); pT′ ~ LogNormal(pT, σ(pT)); d0, dz + N(0, σ(pT, η))
    towers    E′ ~ LogNormal(ΣE, σ(ΣE)), dropped below E_min or below a number of σ
    flow      neutral = max(E′ − E_tracks, 0), kept above E_min and above the same number of σ;
              otherwise the tracks of the tower are rescaled to E′, and lost where the tower is dropped

as in Delphes (arXiv:1307.6346, Sections 2-3) with the numbers of `card`. ECal first, then HCal; muons and
neutrinos leave nothing in either. Tower directions are uniform within the cell. Charged particles that curl
up inside the solenoid reach the end caps, where most of them are beyond the tracker's acceptance.

Delphes weights tower and tracks by their resolutions before rescaling. The card's last tracking step declares
the momenta exact, a resolution of 0, which Delphes takes for a weight of 0: the tower alone decides. JetClass
shows it as a sharp edge of charged hadrons at E = 2.26 GeV, where an HCal tower reaches one σ.

Dimensions: K particles, T towers.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import card
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.particles import (
    CHARGED_HADRON,
    ELECTRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    EnergyFlow,
    Particles,
    concatenate,
)

Array = NDArray[Any]

LIGHT_SPEED = 0.299792458  # pT[GeV] = 0.2998 B[T] r[m]
NEUTRINOS = (12, 14, 16)
ETA_MAX = 5.0  # end of the calorimeters


class Arrival(NamedTuple):
    """Where particles leave the tracker, and the closest approach of their tracks to the beam.

    Attributes:
        inside: Whether the particle starts inside the tracker at all, (K,) bool.
        eta: Pseudorapidity of the exit point seen from the origin, (K,).
        phi: Azimuth of the exit point, (K,) rad.
        track_phi: Direction of the momentum at the closest approach, (K,) rad.
        d0: Signed transverse distance at the closest approach, (K,) mm.
        dz: z of the closest approach, (K,) mm.
    """

    inside: Array
    eta: Array
    phi: Array
    track_phi: Array
    d0: Array
    dz: Array


def log_normal(rng: np.random.Generator, mean: Array, sigma: Array) -> Array:
    """Draw positive numbers with a given mean and standard deviation.

    Args:
        rng: Random generator.
        mean: Mean, any shape; where it is not positive the result is 0.
        sigma: Standard deviation, same shape.

    Returns:
        Random numbers of the same shape.
    """
    positive = mean > 0
    safe = np.where(positive, mean, 1.0)
    width2 = np.log1p((sigma / safe) ** 2)
    drawn = safe * np.exp(np.sqrt(width2) * rng.standard_normal(mean.shape) - width2 / 2)
    return np.where(positive, drawn, 0.0)


def propagate(particles: Particles) -> Arrival:
    """Follow particles through the magnetic field to the wall of the tracker.

    Args:
        particles: K particles.

    Returns:
        Their arrival.
    """
    x, y, z = particles.vertex.T * 1e-3
    p_t = np.maximum(fv.pt(particles.p4), 1e-9)
    phi0 = fv.phi(particles.p4)
    slope = particles.p4[:, 3] / p_t  # dz per transverse length
    inside = (np.hypot(x, y) < card.RADIUS_M) & (np.abs(z) < card.HALF_LENGTH_M)
    wall = np.copysign(card.HALF_LENGTH_M, slope)
    flat = np.abs(slope) < 1e-12
    to_end_cap = np.where(flat, np.inf, (wall - z) / np.where(flat, 1.0, slope))

    cos, sin = np.cos(phi0), np.sin(phi0)
    along = x * cos + y * sin
    to_barrel = np.sqrt(np.maximum(along**2 + card.RADIUS_M**2 - x**2 - y**2, 0.0)) - along
    length = np.minimum(to_barrel, to_end_cap)
    end_x, end_y = x + length * cos, y + length * sin
    track_phi = phi0.copy()
    d0, dz = (x * sin - y * cos) * 1e3, (z - along * slope) * 1e3

    bent = particles.charge != 0
    turn = -np.sign(particles.charge[bent])  # positive charges turn clockwise in a field along +z
    radius = p_t[bent] / (LIGHT_SPEED * card.FIELD_T * np.abs(particles.charge[bent]))
    centre_x, centre_y = x[bent] - turn * radius * sin[bent], y[bent] + turn * radius * cos[bent]
    start = np.arctan2(y[bent] - centre_y, x[bent] - centre_x)
    distance, direction = np.hypot(centre_x, centre_y), np.arctan2(centre_y, centre_x)
    cosine = (card.RADIUS_M**2 - distance**2 - radius**2) / np.maximum(2 * distance * radius, 1e-30)
    opening = np.arccos(np.clip(cosine, -1, 1))
    arcs = [np.mod(turn * (direction + side * opening - start), 2 * np.pi) for side in (1, -1)]
    to_barrel = np.where(distance + radius < card.RADIUS_M, np.inf, radius * np.minimum(*arcs))
    end = start + turn * np.minimum(to_barrel, to_end_cap[bent]) / radius
    end_x[bent], end_y[bent] = centre_x + radius * np.cos(end), centre_y + radius * np.sin(end)
    length[bent] = np.minimum(to_barrel, to_end_cap[bent])
    perigee = direction + np.pi
    track_phi[bent] = fv.wrap_phi(perigee + turn * np.pi / 2)
    near = 1 - radius / np.maximum(distance, 1e-30)
    near_x, near_y = centre_x * near, centre_y * near
    d0[bent] = (near_x * np.sin(track_phi[bent]) - near_y * np.cos(track_phi[bent])) * 1e3
    back = fv.wrap_phi(turn * (start - perigee)) * radius
    dz[bent] = (z[bent] - slope[bent] * back) * 1e3

    finite = np.isfinite(length)  # a curler without longitudinal momentum never arrives
    end_z = z + np.where(finite, length, 0.0) * slope
    exit_eta = np.arcsinh(end_z / np.maximum(np.hypot(end_x, end_y), 1e-9))
    return Arrival(inside & finite, exit_eta, np.arctan2(end_y, end_x), track_phi, d0, dz)


class Tracks(NamedTuple):
    """Tracks found: energy-flow objects and where they enter the calorimeters, η and φ (rad)."""

    flow: EnergyFlow
    eta: Array
    phi: Array


def find_tracks(particles: Particles, arrival: Arrival, rng: np.random.Generator) -> Tracks:
    """Find and smear the tracks of charged particles.

    Args:
        particles: K particles inside the tracker.
        arrival: Their arrival.
        rng: Random generator.

    Returns:
        The tracks found, with their true mass and smeared pT.
    """
    p_t, code = fv.pt(particles.p4), np.abs(particles.pid)
    kind = np.select([code == 11, code == 13], [1, 2], 0)
    efficiency = np.zeros(len(p_t))
    relative = np.zeros(len(p_t))
    for number, name in enumerate(card.TRACK_KINDS):
        chosen = kind == number
        efficiency[chosen] = card.tracking_efficiency(name, p_t[chosen], arrival.eta[chosen])
        relative[chosen] = card.momentum_resolution(name, p_t[chosen], arrival.eta[chosen])
    found = (particles.charge != 0) & (rng.random(len(p_t)) < efficiency)
    kept, p_t, relative = particles[found], p_t[found], relative[found]
    eta, smeared = fv.eta(kept.p4), log_normal(rng, p_t, relative * p_t)
    p4 = fv.from_pt_eta_phi_mass(smeared, eta, arrival.track_phi[found], fv.mass(kept.p4))
    d0_error = card.impact_resolution(card.D0_RESOLUTION_MM, smeared, eta)
    dz_error = card.impact_resolution(card.DZ_RESOLUTION_MM, smeared, eta)
    d0 = arrival.d0[found] + d0_error * rng.standard_normal(len(p_t))
    dz = arrival.dz[found] + dz_error * rng.standard_normal(len(p_t))
    flow = EnergyFlow(
        event=kept.event,
        p4=p4,
        charge=kept.charge,
        kind=np.array([CHARGED_HADRON, ELECTRON, MUON])[kind[found]],
        displacement=np.stack([d0, d0_error, dz, dz_error], axis=-1),
    )
    return Tracks(flow, arrival.eta[found], arrival.phi[found])


class Grid(NamedTuple):
    """Cells of one calorimeter and what it does to energies."""

    eta_edges: Array
    phi_bins: Callable[[Array], Array]
    resolution: Callable[[Array, Array], Array]
    energy_min: float
    significance_min: float
    neutral: int


ECAL = Grid(
    card.ECAL_ETA_EDGES, card.ecal_phi_bins, card.ecal_resolution,
    card.ECAL_ENERGY_MIN_GEV, card.ECAL_SIGNIFICANCE_MIN, PHOTON,
)  # fmt: skip
HCAL = Grid(
    card.HCAL_ETA_EDGES, card.hcal_phi_bins, card.hcal_resolution,
    card.HCAL_ENERGY_MIN_GEV, card.HCAL_SIGNIFICANCE_MIN, NEUTRAL_HADRON,
)  # fmt: skip


def _cells(grid: Grid, event: Array, eta: Array, phi: Array) -> Array:
    """Number the cells so that equal numbers mean the same cell of the same event."""
    row = np.searchsorted(grid.eta_edges, eta, side="left") - 1
    centre = (grid.eta_edges[row] + grid.eta_edges[row + 1]) / 2
    bins = grid.phi_bins(centre)
    column = np.clip(((phi + np.pi) / (2 * np.pi) * bins).astype(np.int64), 0, bins - 1)
    return (event * len(grid.eta_edges) + row) * 360 + column


def measure(
    grid: Grid,
    deposits: tuple[Array, Array, Array, Array],
    tracks: Tracks,
    absorbed: Array,
    rng: np.random.Generator,
) -> tuple[EnergyFlow, Array]:
    """Measure one calorimeter and subtract the tracks that end in it.

    Args:
        grid: The calorimeter.
        deposits: Event, η, φ (rad) and energy (GeV) of what each particle leaves, each (K,).
        tracks: All tracks.
        absorbed: Whether a track ends in this calorimeter, one per track, bool.
        rng: Random generator.

    Returns:
        The neutral objects, and one factor per track by which its momentum is rescaled, 0 for a lost track.
    """
    event, eta, phi, energy = deposits
    hit = _cells(grid, event, eta, phi)
    track_hit = _cells(grid, tracks.flow.event[absorbed], tracks.eta[absorbed], tracks.phi[absorbed])
    cells, number = np.unique(np.concatenate([hit, track_hit]), return_inverse=True)
    in_tower, of_track = number[: len(hit)], number[len(hit) :]
    row, column = cells // 360 % len(grid.eta_edges), cells % 360
    low, high = grid.eta_edges[row], grid.eta_edges[row + 1]
    centre = (low + high) / 2

    size = len(cells)
    true_energy = np.bincount(in_tower, weights=energy, minlength=size)
    measured = log_normal(rng, true_energy, grid.resolution(true_energy, centre))
    sigma = grid.resolution(measured, centre)
    measured[(measured < grid.energy_min) | (measured < grid.significance_min * sigma)] = 0.0
    of_tracks = np.bincount(of_track, weights=tracks.flow.p4[absorbed, 0], minlength=size)
    excess = np.maximum(measured - of_tracks, 0.0)
    neutral = (excess > grid.energy_min) & (excess > grid.significance_min * sigma)
    rescale = np.where(neutral | (of_tracks <= 0), 1.0, measured / np.where(of_tracks > 0, of_tracks, 1.0))
    factors = np.ones(len(tracks.flow))
    factors[absorbed] = rescale[of_track]

    num = int(neutral.sum())
    eta_new = rng.uniform(low[neutral], high[neutral])
    phi_new = (column[neutral] + rng.random(num)) / grid.phi_bins(centre[neutral]) * 2 * np.pi - np.pi
    p4 = fv.from_pt_eta_phi_mass(excess[neutral] / np.cosh(eta_new), eta_new, phi_new)
    flow = EnergyFlow(
        event=cells[neutral] // 360 // len(grid.eta_edges),
        p4=p4,
        charge=np.zeros(num, np.int64),
        kind=np.full(num, grid.neutral),
        displacement=np.zeros((num, 4)),
    )
    return flow, factors


def energy_fractions(pid: Array) -> tuple[Array, Array]:
    """Shares of the energy left in the two calorimeters.

    Args:
        pid: PDG codes, (K,).

    Returns:
        Shares in the ECal and in the HCal, each (K,).
    """
    code = np.abs(pid)
    ecal, hcal = np.zeros(len(code)), np.ones(len(code))
    for number, (in_ecal, in_hcal) in card.ENERGY_FRACTIONS.items():
        ecal[code == number], hcal[code == number] = in_ecal, in_hcal
    return ecal, hcal


def _scaled(tracks: Tracks, factors: Array) -> Tracks:
    """Rescale momenta at fixed mass, as the energy-flow algorithm does."""
    p3 = tracks.flow.p4[:, 1:] * factors[:, None]
    energy = np.sqrt((p3**2).sum(axis=1) + fv.mass(tracks.flow.p4) ** 2)
    return tracks._replace(flow=replace(tracks.flow, p4=np.column_stack([energy, p3])))


def detect(particles: Particles, rng: np.random.Generator, *, eta_max: float = ETA_MAX) -> EnergyFlow:
    """Turn stable particles into energy-flow objects.

    Args:
        particles: Stable particles of any number of events; neutrinos may be among them.
        rng: Random generator.
        eta_max: Objects beyond are not needed; saves the time of the forward region.

    Returns:
        Energy-flow objects: tracks, photons and neutral hadrons, ordered by event.
    """
    particles = particles[~np.isin(np.abs(particles.pid), NEUTRINOS)]
    arrival = propagate(particles)
    seen = arrival.inside & (np.abs(arrival.eta) < min(eta_max, ETA_MAX))
    particles, arrival = particles[seen], Arrival(*(values[seen] for values in arrival))
    tracks = find_tracks(particles, arrival, rng)
    in_ecal, in_hcal = energy_fractions(particles.pid)
    parts = []
    for grid, share, stopped in ((ECAL, in_ecal, ELECTRON), (HCAL, in_hcal, CHARGED_HADRON)):
        hit = share > 0
        deposits = (
            particles.event[hit],
            arrival.eta[hit],
            arrival.phi[hit],
            particles.p4[hit, 0] * share[hit],
        )
        neutral, factors = measure(grid, deposits, tracks, tracks.flow.kind == stopped, rng)
        tracks = _scaled(tracks, factors)
        parts.append(neutral)
    flow = concatenate([tracks.flow[fv.pt(tracks.flow.p4) > 0], *parts])
    return flow[np.argsort(flow.event, kind="stable")]
