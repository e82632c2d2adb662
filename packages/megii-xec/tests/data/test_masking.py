"""What may be hidden, how much of it, and which."""

import pytest
import torch

from hep_shared.errors import InputFileError
from megii_xec.data.hashing import Purpose, uniform
from megii_xec.data.masking import (
    ClusteredDead,
    FileDead,
    RandomDead,
    draw_dead,
    draw_mask,
    read_dead_map,
    valid_sensors,
)
from megii_xec.data.normalization import Normalization
from megii_xec.physics.geometry import NUM_SENSORS, face_ids
from megii_xec.physics.neighbors import nearest_on_face

NORM = Normalization(scheme="new")


@pytest.fixture(scope="module")
def sensors():
    generator = torch.Generator().manual_seed(0)
    npho = 10 ** (torch.rand(6, NUM_SENSORS, generator=generator) ** 3 * 4)  # few bright sensors
    npho[torch.rand(npho.shape, generator=generator) < 0.1] = 1e10
    time = torch.rand(npho.shape, generator=generator) * 1e-8
    return NORM.apply_torch(npho, time)


def draw(sensors, **options):
    uniforms = uniform(0, 0, Purpose.MASK, torch.arange(len(sensors)), NUM_SENSORS)
    return draw_mask(sensors, NORM, uniforms, **{"ratio": 0.6, **options})


def test_the_share_is_of_the_valid_sensors(sensors):
    mask, valid = draw(sensors), valid_sensors(sensors, NORM)
    assert not (mask & ~valid).any()
    assert torch.equal(mask.sum(1), (valid.sum(1) * 0.6 + 1e-6).long())


def test_a_sentinel_of_zero_leaves_those_with_a_time():
    norm = Normalization(scheme="legacy")
    npho, time = torch.tensor([[0.5, 0.0, 1e10]]), torch.tensor([[1e-8, 1e-8, 1e-8]])
    assert valid_sensors(norm.apply_torch(npho, time), norm).tolist() == [[True, False, False]]


def test_faces_with_a_share_of_their_own(sensors):
    mask = draw(sensors, ratio_by_face={"top": 1.0, "us": 0.0})
    valid = valid_sensors(sensors, NORM)
    top, us, inner = (torch.from_numpy(face_ids(face).copy()) for face in ("top", "us", "inner"))
    assert torch.equal(mask[:, top], valid[:, top])
    assert not mask[:, us].any()
    assert (mask[:, inner].sum(1) / valid[:, inner].sum(1) - 0.6).abs().max() < 0.03


def test_log_flat_prefers_the_few_bright_sensors(sensors):
    npho = NORM.denormalize_npho(sensors[..., 0])
    bright = valid_sensors(sensors, NORM) & (npho > 1000)
    share = {
        preference: (draw(sensors, ratio=0.2, preference=preference) & bright).sum() / bright.sum()
        for preference in ("uniform", "log_flat")
    }
    assert abs(share["uniform"] - 0.2) < 0.05
    assert share["log_flat"] > 2 * share["uniform"]


def test_time_scale_prefers_sensors_with_a_time(sensors):
    timed = sensors[..., 1] != NORM.sentinel_time
    plain, biased = (draw(sensors, ratio=0.3, time_scale=scale) & timed for scale in (1.0, 4.0))
    assert biased.sum() > 1.5 * plain.sum()


def dead(kind, sensors):
    return draw_dead(
        kind, sensors, NORM, uniform(0, 0, Purpose.DEAD, torch.arange(len(sensors)), NUM_SENSORS)
    )


def test_random_dead_channels(sensors):
    hidden, valid = dead(RandomDead(fraction=0.05), sensors), valid_sensors(sensors, NORM)
    assert torch.equal(hidden.sum(1), (valid.sum(1) * 0.05 + 1e-6).long())
    assert not (hidden & ~valid).any()
    assert not torch.equal(hidden[0], hidden[1])


def test_clusters_are_neighbours(sensors):
    hidden = dead(ClusteredDead(fraction=0.05, cluster_size=9), sensors)
    valid = valid_sensors(sensors, NORM)
    assert not (hidden & ~valid).any()
    assert (hidden.sum(1) / valid.sum(1)).sub(0.05).abs().max() < 0.02
    ring = torch.from_numpy(nearest_on_face(9)[:, 1:].copy())

    def neighbours_too(mask):
        return (mask[:, ring] & mask[..., None]).sum() / mask.sum()

    assert neighbours_too(hidden) > 5 * neighbours_too(dead(RandomDead(fraction=0.05), sensors))


def test_a_map_from_a_file(sensors, tmp_path):
    path = tmp_path / "dead.txt"
    path.write_text("# run 430000\n7\n4759  # outer\n\n7\n100\n")
    assert read_dead_map(path).tolist() == [7, 100, 4759]
    hidden, valid = dead(FileDead(path=path), sensors), valid_sensors(sensors, NORM)
    assert torch.equal(hidden[:, [7, 100, 4759]], valid[:, [7, 100, 4759]])
    assert hidden.sum() == valid[:, [7, 100, 4759]].sum()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("4760\n", r"'4760' in line 1"), ("1\n-3\n", r"'-3' in line 2"), ("# none\n", "names no sensor")],
)
def test_a_wrong_map_is_refused(tmp_path, text, problem):
    path = tmp_path / "dead.txt"
    path.write_text(text)
    with pytest.raises(InputFileError, match=problem):
        read_dead_map(path)
    with pytest.raises(InputFileError, match="does not exist"):
        read_dead_map(tmp_path / "absent.txt")
