import numpy as np
import pytest

from fourtop_tokens.physics.decay_modes import Kind
from fourtop_tokens.physics.generator import MAX_OBJECTS, channels, describe, generate, reconstruct, truth
from fourtop_tokens.physics.hard_process import PROCESSES
from fourtop_tokens.physics.selection import Selection

JETS, LEPTONS = (Kind.LIGHT, Kind.BOTTOM), (Kind.ELECTRON, Kind.MUON)


@pytest.fixture(scope="module")
def events():
    return {process: generate(process, 1000, np.random.default_rng(7)) for process in PROCESSES}


def sums(events):
    return np.where(np.isin(events.objects, JETS + LEPTONS), events.momenta[:, :, 1], 0).sum(axis=1)


@pytest.mark.parametrize("process", PROCESSES)
def test_final_states_balance_in_transverse_momentum(process):
    particles = truth(process, 500, np.random.default_rng(0))
    np.testing.assert_allclose(particles.momenta[1:3].sum(axis=1), 0, atol=1e-6)
    assert (particles.momenta[0] >= 0).all()
    assert ((particles.kinds == Kind.NONE) == (particles.momenta[0] == 0)).all()


@pytest.mark.parametrize("process", PROCESSES)
def test_every_event_is_in_the_signal_region(events, process):
    chosen = events[process]
    pt, eta = chosen.momenta[:, :, 1], np.abs(chosen.momenta[:, :, 2])
    is_jet, is_lepton = np.isin(chosen.objects, JETS), np.isin(chosen.objects, LEPTONS)
    assert len(chosen) == 1000
    assert (is_jet.sum(axis=1) >= 6).all()
    assert ((chosen.objects == Kind.BOTTOM).sum(axis=1) >= 2).all()
    assert (sums(chosen) > 500).all()
    assert (pt[is_jet] > 25).all()
    assert (pt[is_lepton] > 15).all()
    assert (eta[chosen.objects != Kind.NONE] < 2.5).all()
    number, charge = is_lepton.sum(axis=1), np.abs(np.where(is_lepton, chosen.charges, 0).sum(axis=1))
    assert ((number >= 3) | ((number == 2) & (charge == 2))).all()


@pytest.mark.parametrize("process", PROCESSES)
def test_objects_are_ordered_and_padded(events, process):
    chosen = events[process]
    pt, present = chosen.momenta[:, :, 1], chosen.objects != Kind.NONE
    assert chosen.objects.shape == (1000, MAX_OBJECTS)
    assert (np.diff(pt, axis=1) <= 0).all()
    assert (chosen.momenta[~present] == 0).all()
    assert (chosen.charges[~np.isin(chosen.objects, LEPTONS)] == 0).all()
    assert (chosen.momenta[present][:, 0] >= chosen.momenta[present][:, 1] * (1 - 1e-6)).all()
    assert np.isfinite(chosen.momenta).all()
    assert (np.abs(chosen.missing[:, 1]) <= np.float32(np.pi)).all()


def test_four_tops_are_the_busiest(events):
    others = [process for process in PROCESSES if process != "tttt"]
    for quantity in (
        sums,
        lambda e: np.isin(e.objects, JETS).sum(axis=1),
        lambda e: (e.objects == Kind.BOTTOM).sum(axis=1),
    ):
        four_tops = quantity(events["tttt"]).mean()
        assert all(four_tops > quantity(events[process]).mean() for process in others)


def test_only_ttz_peaks_at_the_z_mass(events):
    def peak(chosen):
        inside = 0
        for objects, charges, (energy, pt, eta, phi) in zip(
            chosen.objects, chosen.charges, chosen.momenta.transpose(0, 2, 1), strict=True
        ):
            p = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
            masses = [
                np.sqrt(max(((p[:, i] + p[:, j]) ** 2 * [1, -1, -1, -1]).sum(), 0))
                for i in range(12)
                for j in range(i)
                if objects[i] == objects[j] and charges[i] * charges[j] == -1
            ]
            inside += any(abs(m - 91.2) < 8 for m in masses)
        return inside / len(chosen)

    assert peak(events["ttZ"]) > 0.4
    assert peak(events["ttW"]) < 0.05


def test_ttw_is_charge_asymmetric(events):
    """Two up quarks for one down quark: more W+ than W-; every other process is symmetric."""
    positive = {
        process: (np.where(np.isin(e.objects, LEPTONS), e.charges, 0).sum(axis=1) > 0).mean()
        for process, e in events.items()
    }
    assert positive["ttW"] > 0.58
    assert positive["tttt"] == pytest.approx(0.5, abs=0.08)


def test_a_seed_gives_the_same_events_and_a_longer_run_begins_alike():
    short, long = (generate("ttWW", n, np.random.default_rng(3)) for n in (50, 700))
    for name in ("objects", "charges", "momenta", "missing"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[:50])


def test_conditioning_on_channels_changes_nothing_but_the_rate():
    """Channels with 6 partons or more, and all channels: the same rate and spectrum of selected events."""
    everything = Selection()
    conditioned = reconstruct(
        truth("tttt", 20_000, np.random.default_rng(0)), everything, np.random.default_rng(1)
    )
    free = reconstruct(
        truth("tttt", 20_000, np.random.default_rng(2), 0), everything, np.random.default_rng(3)
    )
    rate, free_rate = (
        len(selected) / 20_000 * channels("tttt", jets).possible_fraction
        for selected, jets in ((conditioned, 6), (free, 0))
    )
    assert rate == pytest.approx(free_rate, rel=0.08)
    assert sums(conditioned).mean() == pytest.approx(sums(free).mean(), rel=0.03)


def test_zero_events_are_an_empty_list():
    assert len(generate("tttt", 0, np.random.default_rng(0))) == 0


def test_figures_for_the_provenance():
    figures = describe("ttZ")
    assert 0 < figures["possible_channel_fraction"] < 0.1
    assert 0 <= figures["clipped_cross_section_fraction"] < 0.01
