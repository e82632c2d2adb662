"""The engine with a parton shower; most of it only where the extra is installed."""

import sys

import numpy as np
import pytest
from scipy.integrate import quad

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics import hadrons, pythia
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.kinematics import delta_r2, eta, kallen, mass, phi, pt
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.particles import Kind
from chhiggs_pnet.physics.virtual_w import mass_density
from hep_shared.errors import UserError

POINT = MassPoint(130, 90)
NUM = 60


def needs_pythia():
    pytest.importorskip("pythia8mc", reason="chhiggs-pnet[pythia] is not installed")
    pytest.importorskip("fastjet", reason="chhiggs-pnet[pythia] is not installed")


@pytest.fixture(scope="module")
def signal():
    needs_pythia()
    return pythia.Source("signal", "Run1E2Mu", np.random.default_rng(1), POINT)


@pytest.fixture(scope="module")
def particles(signal):
    (batch,) = signal.generate(NUM)
    return batch.particles


def test_fractions_count_what_can_reach_the_channel():
    """A tau counts whole: Pythia decays it later, the fast engine before."""
    wz, zz = pythia._parts("diboson", None)
    assert wz.fraction("Run3Mu") == pytest.approx(c.W_TO_MUON + c.W_TO_TAU)
    assert zz.fraction("Run1E2Mu") == pytest.approx(4 * c.Z_TO_LEPTONS**2)  # mumu with ee or tautau
    (signal,) = pythia._parts("signal", POINT)
    miss = c.W_TO_MUON + c.W_TO_HADRONS
    total = sum((c.W_TO_ELECTRON, c.W_TO_MUON, c.W_TO_TAU, c.W_TO_HADRONS))
    assert signal.fraction("Run1E2Mu") == pytest.approx(total**2 - miss**2)


def test_leptons_that_cannot_reach_the_channel_are_known():
    (part,) = pythia._parts("signal", POINT)
    assert part.can_reach("Run1E2Mu", 1, 2, 0)
    assert part.can_reach("Run1E2Mu", 0, 2, 1)
    assert not part.can_reach("Run1E2Mu", 0, 3, 0)
    assert not part.can_reach("Run3Mu", 1, 2, 0)
    (nonprompt,) = pythia._parts("nonprompt", None)
    assert nonprompt.can_reach("Run3Mu", 0, 2, 0)
    assert not nonprompt.can_reach("Run3Mu", 1, 1, 0)


def test_every_event_comes_back_and_can_pass(particles):
    assert len(particles) == NUM
    leptons = particles.kinds[: particles.num_lepton_slots]
    assert ((leptons == Kind.MUON).sum(axis=0) >= 2).mean() > 0.9  # but for leptons beyond the acceptance
    is_lepton = np.isin(particles.kinds, (Kind.MUON, Kind.ELECTRON))
    assert (np.abs(particles.charges[is_lepton]) == 1).all()
    assert (particles.charges[~is_lepton] == 0).all()
    assert (particles.momenta[:, particles.kinds == Kind.NONE] == 0).all()


def test_the_pseudoscalar_has_its_mass(particles):
    best = []
    for n in range(len(particles)):
        muons = np.flatnonzero(particles.kinds[: particles.num_lepton_slots, n] == Kind.MUON)
        pairs = [
            mass(particles.momenta[:, i, n] + particles.momenta[:, j, n])
            for i in muons
            for j in muons
            if particles.charges[i, n] > particles.charges[j, n]
        ]
        best.append(min(pairs, key=lambda m: abs(m - POINT.mA), default=0.0))
    assert np.median(best) == pytest.approx(POINT.mA, abs=0.3)


def test_jets_are_apart_and_two_hold_a_b(particles):
    is_jet = particles.kinds >= Kind.TAU_JET
    assert 2 < is_jet.sum(axis=0).mean() < 8
    assert 1.2 < (particles.kinds == Kind.BOTTOM).sum(axis=0).mean() < 2.5
    assert (pt(particles.momenta)[is_jet] > hadrons.JET_PT_MIN).all()
    for n in range(len(particles)):
        jets = particles.momenta[:, is_jet[:, n], n]
        distance = delta_r2(eta(jets)[:, None], phi(jets)[:, None], eta(jets), phi(jets))
        assert distance[np.triu_indices(jets.shape[1], 1)].min(initial=9.0) > 0.2**2


def test_prompt_leptons_are_isolated(particles):
    muons = particles.kinds[: particles.num_lepton_slots] == Kind.MUON
    assert np.median(particles.activity[muons]) < 0.05


def test_the_virtual_w_follows_the_exact_law(signal):
    """Means over decays of q and cos² θ*, from the records of hard events."""
    generator = signal._generators[0][0]
    masses, cosines = [], []
    for _ in range(400):
        if not generator.next():
            continue
        event = generator.process
        higgs = next(p for p in event if p.idAbs() == 37 and p.daughter2() > 0)
        boson = next(event[i] for i in (higgs.daughter1(), higgs.daughter2()) if event[i].idAbs() == 24)
        first, second = (event[i] for i in (boson.daughter1(), boson.daughter2()))
        momentum = np.sqrt(kallen(POINT.mHc**2, POINT.mA**2, boson.m() ** 2)) / (2 * POINT.mHc)
        energy = (pythia._dot(higgs, first) - pythia._dot(higgs, second)) / higgs.m()
        masses.append(boson.m())
        cosines.append(float(energy / momentum) ** 2)
    end = POINT.mHc - POINT.mA
    total, first = (
        quad(lambda q, n=n: q**n * mass_density(q, POINT.mHc, POINT.mA), 0, end)[0] for n in (0, 1)
    )
    error = np.std(masses) / np.sqrt(len(masses))
    assert abs(np.mean(masses) - first / total) < 4 * error
    assert abs(np.mean(cosines) - 0.2) < 4 * np.std(cosines) / np.sqrt(len(cosines))


def test_events_are_selected_and_reproducible():
    needs_pythia()
    one, two = (generate_events("signal", "Run1E2Mu", 6, 5, point=POINT, engine="pythia") for _ in range(2))
    assert len(one.events) == 6
    np.testing.assert_array_equal(one.events.pt, two.events.pt)
    assert one.num_trials >= 6


@pytest.mark.parametrize("process", ["diboson", "nonprompt", "ttX"])
def test_every_background_showers(process):
    needs_pythia()
    batches = pythia.Source(process, "Run3Mu", np.random.default_rng(2)).generate(20)
    assert sum(len(batch.particles) for batch in batches) == 20
    assert all(batch.cross_section_fb > 0 for batch in batches)


def test_only_the_signal_has_a_mass_point():
    with pytest.raises(ValueError, match="only the signal"):
        pythia.Source("ttX", "Run3Mu", np.random.default_rng(0), POINT)


def test_without_the_extra_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(UserError, match=r"--engine pythia needs pythia8mc.*chhiggs-pnet\[pythia\]"):
        generate_events("ttX", "Run3Mu", 1, 0, engine="pythia")
