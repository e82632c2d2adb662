import pytest
import torch

from jet_foundation.models.packing import Packing


@pytest.mark.parametrize("dense", [True, False])
def test_unpack_undoes_pack(dense: bool) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = torch.randn(2, 3, 4)
    packing = Packing(mask, dense=dense)
    packed = packing.pack(x)
    assert len(packed) == (6 if dense else 3)
    torch.testing.assert_close(packing.unpack(packed)[mask], x[mask])


def test_little_padding_keeps_the_rectangle() -> None:
    mask = torch.ones(10, 10, dtype=torch.bool)
    mask[0, -1] = False
    assert Packing(mask).index is None
    mask[:, -2:] = False
    packing = Packing(mask)
    assert packing.index is not None
    assert packing.groups is None
    mask[:, -3:] = False
    assert Packing(mask).groups is not None


def test_the_list_by_length() -> None:
    mask = torch.zeros(5, 6, dtype=torch.bool)
    for jet, slots in enumerate(([0, 1, 2], [2, 5], [], [0, 3, 4], [1, 4])):
        mask[jet, slots] = True
    packing = Packing(mask, by_length=True)
    assert packing.groups is not None
    assert [group[:2] for group in packing.groups] == [(2, 2), (2, 3)]
    slots = torch.arange(30).view(5, 6, 1)
    assert packing.pack(slots)[:, 0].tolist() == [8, 11, 25, 28, 0, 1, 2, 18, 21, 22]
    torch.testing.assert_close(packing.unpack(packing.pack(slots))[mask], slots[mask])
    assert not packing.unpack(packing.pack(slots))[~mask].any()


def test_every_pair_has_its_place() -> None:
    mask = torch.rand(7, 9) < 0.6
    packing = Packing(mask, by_length=True)
    jet, first, second = (mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
    places = packing.pair_positions(jet, first, second, 3)
    assert places.flatten().sort().values.tolist() == list(range(3 * packing.num_pairs))
    group = packing.groups[0]
    own = (places >= 3 * group.pairs.start) & (places < 3 * group.pairs.stop)
    assert set(mask.sum(dim=1)[jet[own[:, 0]]].tolist()) == {group.length}
