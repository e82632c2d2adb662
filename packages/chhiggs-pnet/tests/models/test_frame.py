"""The frame of an event: the same for all copies that rotations and mirrors make, with the same physics."""

import pytest
import torch

from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.data.schema import EXT14
from chhiggs_pnet.models.baselines import DeepSets, Perceptron
from chhiggs_pnet.models.frame import align
from chhiggs_pnet.models.pair_masses import squared_pair_masses
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint

SETTINGS = {"num_features": 14, "num_classes": 4, "mass_mean": (130, 90), "mass_std": (20, 4)}
NETWORKS = {
    "particle_net": lambda frame: ParametricParticleNet(
        **SETTINGS, hidden_dims=(8, 8, 8), num_heads=2, frame=frame
    ),
    "deepsets": lambda frame: DeepSets(**SETTINGS, hidden_dim=8, frame=frame),
    "mlp": lambda frame: Perceptron(**SETTINGS, hidden_dim=8, frame=frame),
}
PX, PY, PZ, PT, ETA, PHI = (EXT14.index(name) for name in ("px", "py", "pz", "pt", "eta", "phi"))
COPIES = [(1.1, 1, 1), (-2.9, 1, -1), (0.0, -1, 1), (0.4, -1, -1)]


@pytest.fixture(scope="module")
def events():
    found = generate_events("signal", "Run1E2Mu", 40, 1, point=MassPoint(130, 90)).events
    return tuple(torch.from_numpy(part) for part in node_features(found))


def copy_of(nodes, angle, up, forward):
    """The same event, rotated about the beam and mirrored."""
    phi = up * (nodes[..., PHI] + angle)
    out = nodes.clone()
    out[..., PHI] = torch.atan2(phi.sin(), phi.cos())
    out[..., PX], out[..., PY] = nodes[..., PT] * phi.cos(), nodes[..., PT] * phi.sin()
    out[..., PZ], out[..., ETA] = forward * nodes[..., PZ], forward * nodes[..., ETA]
    return out


@pytest.mark.parametrize("features", [9, 14])
@pytest.mark.parametrize(("angle", "up", "forward"), COPIES)
def test_copies_of_an_event_are_one(events, features, angle, up, forward):
    nodes, mask = events
    expected = align(nodes[..., :features], mask)[mask]
    found = align(copy_of(nodes, angle, up, forward)[..., :features], mask)[mask]
    if features == 14:  # −π and π are one azimuth
        difference = found[:, PHI] - expected[:, PHI]
        assert torch.atan2(difference.sin(), difference.cos()).abs().max() < 1e-4
        found[:, PHI] = expected[:, PHI]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)


def test_the_frame_is_the_one_of_the_formula_and_keeps_the_physics(events):
    nodes, mask = events
    found = align(nodes, mask)
    lepton = mask & (nodes[..., [EXT14.index("is_muon"), EXT14.index("is_electron")]].sum(dim=-1) > 0)
    jet = mask & (nodes[..., EXT14.index("is_jet")] > 0)
    total = (found * lepton.unsqueeze(-1)).sum(dim=1)
    assert (total[:, PX] > 0).all()
    torch.testing.assert_close(total[:, PY], torch.zeros(len(nodes)), rtol=0, atol=1e-3)
    assert ((found * jet.unsqueeze(-1)).sum(dim=1)[:, PY] >= 0).all()
    assert ((found * mask.unsqueeze(-1)).sum(dim=1)[:, PZ] >= 0).all()
    for name in set(EXT14) - {"px", "py", "pz", "eta", "phi"}:
        index = EXT14.index(name)
        assert torch.equal(found[..., index], nodes[..., index])
    both = [squared_pair_masses(*(part[..., i] for i in (PX, PY, PZ))) for part in (found, nodes)]
    pairs = lepton.unsqueeze(1) & lepton.unsqueeze(2)
    torch.testing.assert_close(both[0][pairs], both[1][pairs], rtol=1e-3, atol=1e-2)
    azimuth = torch.atan2(found[..., PY], found[..., PX])
    torch.testing.assert_close(found[..., PHI][mask], azimuth[mask])


def test_an_event_without_leptons_stays(events):
    nodes = torch.zeros(1, 2, 14)
    nodes[0, 0, [PX, PY, PZ, EXT14.index("is_jet")]] = torch.tensor([-3.0, 4.0, 1.0, 1.0])
    mask = torch.tensor([[True, False]])
    assert torch.equal(align(nodes, mask)[0, 0, [PX, PY, PZ]], torch.tensor([-3.0, 4.0, 1.0]))


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_networks_do_not_tell_copies_apart_on_request(events, kind):
    nodes, mask = events
    masses = torch.tensor([[130.0, 88.0]]).expand(len(nodes), 2)
    index = torch.zeros(len(nodes), dtype=torch.int64)
    torch.manual_seed(0)
    for frame, same in (("event", True), ("detector", False)):
        network = NETWORKS[kind](frame).eval()
        first, second = (
            network(given, mask, masses, index, index) for given in (nodes, copy_of(nodes, 0.3, -1, -1))
        )
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-3) == same
