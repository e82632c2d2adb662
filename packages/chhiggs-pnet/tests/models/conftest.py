"""Random events with 2 to 9 nodes."""

import pytest
import torch

from chhiggs_pnet.export import example_inputs


@pytest.fixture
def inputs():
    """Inputs of a network by name: 12 events, the first with a single node, the second with three."""
    found = example_inputs(14, num_events=12, seed=3)
    for event, count in ((0, 1), (1, 3)):
        found["valid_mask"][event] = torch.arange(16) < count
    found["nodes"] = found["nodes"] * found["valid_mask"].unsqueeze(-1)
    return found
