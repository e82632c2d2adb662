import numpy as np
import pytest

from fourtop_tokens.data import schema
from fourtop_tokens.physics.decay_modes import Kind


def test_sizes_of_the_public_file():
    assert schema.split_sizes(302_072) == {"train": 241_658, "val": 30_207, "test": 30_207}
    assert schema.class_sizes(30_207) == {1: 15_375, 2: 3_552, 3: 3_710, 4: 3_779, 5: 3_791}
    assert (schema.NUM_COLUMNS, schema.NUM_TOKENS) == (92, 20)


@pytest.mark.parametrize("num_events", [0, 1, 7, 100, 12_345])
def test_class_sizes_add_up(num_events):
    sizes = schema.class_sizes(num_events)
    assert sum(sizes.values()) == num_events
    total = sum(schema.CLASS_WEIGHTS.values())
    assert all(abs(sizes[c] - num_events * w / total) < 1 for c, w in schema.CLASS_WEIGHTS.items())


@pytest.mark.parametrize(("muon_ids", "plus"), [("plus_5", 5), ("plus_6", 6)])
def test_object_codes(muon_ids, plus):
    kinds = [
        Kind.NONE,
        Kind.LIGHT,
        Kind.BOTTOM,
        Kind.ELECTRON,
        Kind.ELECTRON,
        Kind.MUON,
        Kind.MUON,
        Kind.PHOTON,
    ]
    charges = [0, 0, 0, 1, -1, 1, -1, 0]
    codes = schema.object_ids(np.array(kinds, np.int8), np.array(charges, np.int8), muon_ids)
    assert list(codes) == [0, 1, 2, 3, 4, plus, 11 - plus, 7]
