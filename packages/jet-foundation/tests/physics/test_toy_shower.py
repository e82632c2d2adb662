import numpy as np
import pytest

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics import toy_shower
from jet_foundation.physics.jet_table import Jets
from jet_foundation.physics.processes import CLASSES


def test_jets_pass_the_selection_and_are_sorted(toy_jets: Jets) -> None:
    np.testing.assert_array_equal(np.bincount(toy_jets.labels), np.full(10, 20))
    total = toy_jets.jet_p4()
    assert ((fv.pt(total) > 500) & (fv.pt(total) < 1000)).all()
    assert (np.abs(fv.eta(total)) < 2).all()
    steps = np.diff(fv.pt(toy_jets.p4))
    inside = np.diff(toy_jets.jet_of_particle) == 0
    assert (steps[inside] <= 1e-3).all()
    assert (toy_jets.p4[:, 0] > 0).all()


def test_the_same_generator_gives_the_same_jets() -> None:
    first, second = (toy_shower.generate_toy("Tbl", 5, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.p4, second.p4)


@pytest.mark.parametrize("name", CLASSES)
def test_decay_products_carry_the_mass_of_the_mother(name: str) -> None:
    partons, mother = toy_shower.draw_partons(name, 40, np.random.default_rng(0))
    total = np.stack([np.bincount(partons.jet, partons.p4[:, n], 40) for n in range(4)], axis=-1)
    if name in ("Hqql", "Tbl"):
        assert (total[:, 0] < mother[:, 0]).all()  # a neutrino is missing
    else:
        np.testing.assert_allclose(total, mother, rtol=1e-6, atol=1e-6)


def test_radiation_keeps_the_energy_and_leptons() -> None:
    partons, _ = toy_shower.draw_partons("Tbl", 40, np.random.default_rng(0))
    after = toy_shower.radiate(partons, np.random.default_rng(1))
    assert len(after.jet) > len(partons.jet)
    before = np.bincount(partons.jet, partons.p4[:, 0])
    np.testing.assert_allclose(np.bincount(after.jet, after.p4[:, 0]), before, rtol=1e-6)
    lepton = after.lepton != 0
    np.testing.assert_allclose(after.p4[lepton], partons.p4[partons.lepton != 0])


def test_classes_have_the_sizes_of_real_jets() -> None:
    rng = np.random.default_rng(5)
    jets = {name: toy_shower.generate_toy(name, 150, rng) for name in ("Hbb", "Wqq", "Tbqq", "Hgg")}
    mass = {name: np.median(fv.mass(table.jet_p4())) for name, table in jets.items()}
    assert mass["Wqq"] == pytest.approx(87, abs=12)
    assert mass["Hbb"] == pytest.approx(125, abs=12)
    assert mass["Tbqq"] == pytest.approx(173, abs=15)
    assert jets["Hgg"].num_particles.mean() > 1.2 * jets["Hbb"].num_particles.mean()
    displaced = {
        name: np.abs(table.displacement[:, 0]).mean()
        for name, table in jets.items()
        if table.displacement is not None
    }
    assert displaced["Hbb"] > 2 * displaced["Wqq"]
