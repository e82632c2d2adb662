r"""Toy events: boosted jets, charged leptons and missing momentum of seven processes.

    multijet          two QCD jets
    Z+jet             Z → νν, one QCD jet
    W+jet             W → ℓν, one QCD jet
    ZH                Z → νν, H → bb̄ in one jet
    ZW                Z → νν, W → qq′ in one jet
    tt-hadronic       two jets of t → bqq′
    tt-semileptonic   one jet of t → bqq′, one of t → bℓν with the lepton inside

The jets are those of `toy_shower`, turned about the beam so that an event balances in pT within 0.1 rad; two
jets of an event have neighbouring ranks of pT. A lone jet recoils against its Z or W, which decays
isotropically. What the detector does not see is the neutrinos, and

    missing pT = Σ neutrino pT + N(0, σ²) per component,    σ = 0.6 √(GeV Σ|pT|)

of the size that CMS measured (arXiv:1903.06078). As the jets, the events are a toy: topologies are
right, rates and spectra are not.

Dimensions: E events, J jets of all events, L leptons of all events.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets, concatenate, ragged_index
from jet_foundation.physics.toy_shower import MASS_GEV, generate_toy, two_body

Array = NDArray[Any]

# Process → classes of its jets and the boson that a lone jet recoils against.
PROCESSES: dict[str, tuple[tuple[str, ...], str]] = {
    "multijet": (("QCD", "QCD"), ""),
    "Z+jet": (("QCD",), "Z"),
    "W+jet": (("QCD",), "W"),
    "ZH": (("Hbb",), "Z"),
    "ZW": (("Wqq",), "Z"),
    "tt-hadronic": (("Tbqq", "Tbqq"), ""),
    "tt-semileptonic": (("Tbqq", "Tbl"), ""),
}
EVENT_CLASSES = tuple(PROCESSES)
LEPTON_PT_MIN_GEV, LEPTON_ETA_MAX = 20.0, 2.5
LEPTON_RESOLUTION = 0.02
MET_STOCHASTIC = 0.6
_IS_ELECTRON, _IS_MUON = 4, 5  # columns of `Jets.pid`


@dataclass(frozen=True)
class Events:
    """Events of ragged jets and leptons.

    Attributes:
        jets: Jets of all events, one event after another.
        jet_offsets: Where the jets of each event begin, (E + 1,) int64.
        leptons: E, px, py, pz (GeV), charge, and 1 for a muon, (L, 6) float32.
        lepton_offsets: Where the leptons of each event begin, (E + 1,) int64.
        met: Missing px and py, (E, 2) float32 GeV.
        labels: Class numbers of the events, (E,) int64.
    """

    jets: Jets
    jet_offsets: Array
    leptons: Array
    lepton_offsets: Array
    met: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, events: Array) -> Self:
        """Select events.

        Args:
            events: Event numbers in any order, (S,) int64.

        Returns:
            The events chosen, copied.
        """
        jets, jet_offsets = ragged_index(self.jet_offsets, events)
        leptons, lepton_offsets = ragged_index(self.lepton_offsets, events)
        return type(self)(
            jets=self.jets.take(jets),
            jet_offsets=jet_offsets,
            leptons=self.leptons[leptons],
            lepton_offsets=lepton_offsets,
            met=self.met[events],
            labels=self.labels[events],
        )


def join(parts: list[Events]) -> Events:
    """Put tables of events one after another.

    Args:
        parts: At least one table.

    Returns:
        One table.
    """

    def offsets(columns: list[Array]) -> Array:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(column) for column in columns]))])

    return Events(
        jets=concatenate([part.jets for part in parts]),
        jet_offsets=offsets([part.jet_offsets for part in parts]),
        leptons=np.concatenate([part.leptons for part in parts]),
        lepton_offsets=offsets([part.lepton_offsets for part in parts]),
        met=np.concatenate([part.met for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def rotated(jets: Jets, angle: Array) -> Jets:
    """Turn jets about the beam.

    Args:
        jets: Any jets.
        angle: Angle of each jet, (J,) rad.

    Returns:
        The same jets with their particles, axes and true mothers turned.
    """
    turn = angle[jets.jet_of_particle]
    p4 = jets.p4.astype(np.float64)
    cos, sin = np.cos(turn), np.sin(turn)
    px, py = cos * p4[:, 1] - sin * p4[:, 2], sin * p4[:, 1] + cos * p4[:, 2]
    scalars = dict(jets.scalars)
    for name in ("phi", "genpart_phi"):
        scalars[name] = fv.wrap_phi(scalars[name] + angle).astype(np.float32)
    turned = np.column_stack([p4[:, 0], px, py, p4[:, 3]]).astype(np.float32)
    return replace(jets, p4=turned, scalars=scalars)


def generate_events(name: str, num_events: int, rng: np.random.Generator) -> Events:
    """Generate events of one process.

    Args:
        name: One of `EVENT_CLASSES`.
        num_events: Number of events E.
        rng: Random generator.

    Returns:
        Labelled events.
    """
    classes, boson = PROCESSES[name]
    by_slot = []
    for label in classes:
        jets = generate_toy(label, num_events, rng)
        by_slot.append(jets.take(np.argsort(jets.scalars["pt"], kind="stable")))
    first = by_slot[0]
    if len(by_slot) == 2:
        target = first.scalars["phi"] + np.pi + rng.normal(0.0, 0.1, num_events)
        by_slot[1] = rotated(by_slot[1], target - by_slot[1].scalars["phi"])
    missing = sum((_neutrino_pt(jets) for jets in by_slot), np.zeros((num_events, 2)))
    leptons, owner = _leptons_in_jets(by_slot)
    if boson:
        more, its_owner, neutrinos = _recoil(first, boson, rng)
        missing += neutrinos
        leptons, owner = np.concatenate([leptons, more]), np.concatenate([owner, its_owner])
    activity = sum((jets.scalars["pt"] for jets in by_slot), np.zeros(num_events))
    met = missing + MET_STOCHASTIC * np.sqrt(activity)[:, None] * rng.normal(size=(num_events, 2))
    order = np.lexsort((-fv.pt(leptons), owner))
    jets = concatenate(by_slot)
    jets = jets.take(np.lexsort((-jets.scalars["pt"], np.tile(np.arange(num_events), len(by_slot)))))
    events = Events(
        jets=jets,
        jet_offsets=np.arange(num_events + 1) * len(by_slot),
        leptons=leptons[order].astype(np.float32),
        lepton_offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=num_events))]),
        met=met.astype(np.float32),
        labels=np.full(num_events, EVENT_CLASSES.index(name)),
    )
    return events.take(rng.permutation(num_events))


def _neutrino_pt(jets: Jets) -> Array:
    """What is missing from jets with a lepton: their mother's pT less their own, (J, 2) GeV."""
    own, mother = (
        np.stack([pt * np.cos(phi), pt * np.sin(phi)], axis=-1)
        for pt, phi in (
            (jets.scalars["pt"], jets.scalars["phi"]),
            (jets.scalars["genpart_pt"], jets.scalars["genpart_phi"]),
        )
    )
    assert jets.pid is not None
    leptonic = np.bincount(jets.jet_of_particle, jets.pid[:, _IS_ELECTRON] + jets.pid[:, _IS_MUON]) > 0
    return np.where(leptonic[:, None] & (jets.scalars["genpart_pid"] > 0)[:, None], mother - own, 0.0)


def _leptons_in_jets(by_slot: list[Jets]) -> tuple[Array, Array]:
    """Electrons and muons among the particles of jets, and the event of each."""
    rows, owners = [np.zeros((0, 6))], [np.zeros(0, np.int64)]
    for jets in by_slot:
        assert jets.pid is not None
        is_muon = jets.pid[:, _IS_MUON] > 0
        found = (is_muon | (jets.pid[:, _IS_ELECTRON] > 0)) & (fv.pt(jets.p4) > LEPTON_PT_MIN_GEV)
        rows.append(np.column_stack([jets.p4, jets.pid[:, 0], is_muon])[found])
        owners.append(jets.jet_of_particle[found])
    return np.concatenate(rows), np.concatenate(owners)


def _recoil(jets: Jets, boson: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Leptons with their events, and the neutrinos' pT, of a boson that balances each jet."""
    num = len(jets)
    mass = np.full(num, MASS_GEV[boson])
    phi = jets.scalars["phi"].astype(np.float64) + np.pi
    eta = np.clip(rng.normal(0.0, 1.0, num), -2.5, 2.5)
    mother = fv.from_pt_eta_phi_mass(jets.scalars["pt"].astype(np.float64), eta, phi, mass)
    if boson == "Z":
        return np.zeros((0, 6)), np.zeros(0, np.int64), mother[:, 1:3]
    lepton, neutrino = two_body(rng, mother, np.zeros(num), np.zeros(num))
    seen = (fv.pt(lepton) > LEPTON_PT_MIN_GEV) & (np.abs(fv.eta(lepton)) < LEPTON_ETA_MAX)
    smeared = lepton * np.maximum(rng.normal(1.0, LEPTON_RESOLUTION, num), 0.5)[:, None]
    charge, is_muon = rng.choice([-1.0, 1.0], num), rng.integers(0, 2, num)
    invisible = neutrino[:, 1:3] + np.where(seen[:, None], 0.0, lepton[:, 1:3])
    return np.column_stack([smeared, charge, is_muon])[seen], np.flatnonzero(seen), invisible
