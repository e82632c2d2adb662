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
    mask[:, -3:] = False
    assert Packing(mask).index is not None
