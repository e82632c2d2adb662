import numpy as np
import pytest

from jet_foundation.data.features import FEATURE_NAMES, particle_features
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets


def test_features_agree_with_their_formulas(toy_jets: Jets) -> None:
    jet = toy_jets.take(np.array([11]))
    axis, p4 = jet.jet_p4()[0], jet.p4.astype(np.float64)
    got = dict(zip(FEATURE_NAMES["full"], particle_features(jet, "full").T, strict=True))
    side = np.sign(fv.eta(axis))
    expected = {
        "log_pt": np.log(fv.pt(p4)),
        "log_energy_rel": np.log(p4[:, 0] / axis[0]),
        "delta_r": fv.delta_r(fv.eta(p4), fv.phi(p4), fv.eta(axis), fv.phi(axis)),
        "deta": side * (fv.eta(p4) - fv.eta(axis)),
        "dphi": fv.wrap_phi(fv.phi(p4) - fv.phi(axis)),
        "charge": jet.pid[:, 0] if jet.pid is not None else None,
        "tanh_d0": np.tanh(jet.displacement[:, 0]) if jet.displacement is not None else None,
        "dz_error": np.clip(jet.displacement[:, 3], 0, 1) if jet.displacement is not None else None,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("feature_set", "number"), [("kin", 7), ("kinpid", 13), ("full", 17)])
def test_smaller_sets_are_prefixes(toy_jets: Jets, feature_set: str, number: int) -> None:
    features = particle_features(toy_jets, feature_set)  # type: ignore[arg-type]
    assert features.shape == (len(toy_jets.p4), number)
    np.testing.assert_array_equal(features, particle_features(toy_jets, "full")[:, :number])
    assert np.isfinite(features).all()


def test_a_missing_column_is_an_error(toy_jets: Jets) -> None:
    bare = Jets(toy_jets.offsets, toy_jets.p4, toy_jets.labels)
    with pytest.raises(ValueError, match="needs particle identity"):
        particle_features(bare, "full")
