"""Padded batches of toy jets."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from jet_foundation.data.loader import pad_jets
from jet_foundation.data.normalization import Normalization
from jet_foundation.physics.jet_table import Jets


class Jetful(NamedTuple):
    p4: Tensor
    features: Tensor
    valid_mask: Tensor


@pytest.fixture
def jetful(toy_jets: Jets) -> Jetful:
    """Six jets of 5 to 40 particles, 7 features."""
    jets = toy_jets.take(np.array([3, 25, 70, 110, 150, 199]))
    parts = [jets.take(np.array([n])).truncated(size) for n, size in enumerate((5, 12, 9, 40, 21, 30))]
    from jet_foundation.physics.jet_table import concatenate

    batch = pad_jets(concatenate(parts), Normalization.part("kin"))
    return Jetful(batch.p4, batch.features, batch.valid_mask)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
