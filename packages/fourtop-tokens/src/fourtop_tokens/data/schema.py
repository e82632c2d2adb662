"""Names, shapes, codes and units on disk.

The layout is that of the public four-top sample: one HDF5 file with the six data sets below (the mixed case
of the label keys is real). A row of X holds 18 object ids, the missing transverse momentum and its azimuth,
and E, pT, eta, phi of each object, object after object; empty places are 0. Units are GeV and rad.

The binned file has the same keys with X of 20 integer tokens: 18 objects, missing momentum, its azimuth.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.decay_modes import Kind

Split = Literal["train", "val", "test"]
MuonIds = Literal["plus_5", "plus_6"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
X_KEYS: dict[Split, str] = {"train": "X_train", "val": "X_val", "test": "X_test"}
Y_KEYS: dict[Split, str] = {"train": "Y_train", "val": "y_val", "test": "y_test"}

NUM_OBJECTS = 18
NUM_GLOBALS = 2  # missing transverse momentum, its azimuth
FEATURES = ("energy", "pt", "eta", "phi")
ENERGY, PT, ETA, PHI = range(4)
NUM_COLUMNS = NUM_OBJECTS + NUM_GLOBALS + NUM_OBJECTS * len(FEATURES)  # 92
NUM_TOKENS = NUM_OBJECTS + NUM_GLOBALS  # 20

PAD = 0
OBJECT_IDS = {1: "jet", 2: "b-jet", 3: "e+", 4: "e-", 5: "mu+", 6: "mu-", 7: "photon"}  # 5, 6: see MuonIds
NUM_IDS = len(OBJECT_IDS)

LABELS = {1: "tttt", 2: "ttH", 3: "ttW", 4: "ttWW", 5: "ttZ"}
SIGNAL = 1
# Events of each class in the public test split (30,207 events): the mixture that a simulated file copies.
CLASS_WEIGHTS = {1: 15_375, 2: 3_552, 3: 3_710, 4: 3_779, 5: 3_791}

# Attributes of the files that this package writes.
ATTR_PROVENANCE, ATTR_UNITS = "provenance", "units"
ATTR_NUM_BINS, ATTR_VOCAB_SIZE, ATTR_NUM_TOKENS, ATTR_BINNING = "n_bins", "vocab_size", "n_tokens", "binning"


def object_ids(objects: NDArray[np.int8], charges: NDArray[np.int8], muon_ids: MuonIds) -> NDArray[np.int8]:
    """Turn reconstructed objects into the codes on disk.

    Args:
        objects: `Kind` of each object, with LIGHT for a jet and BOTTOM for a b-tagged one.
        charges: Charges of the leptons.
        muon_ids: `plus_5` writes 5 for mu+ and 6 for mu-; `plus_6` the reverse. The code and the text that
            describe the public sample disagree on this.

    Returns:
        Codes of `OBJECT_IDS`, 0 where there is no object.
    """
    table = np.zeros((len(Kind), 3), np.int8)  # charge -1 lies at the end
    table[Kind.LIGHT], table[Kind.BOTTOM], table[Kind.PHOTON] = 1, 2, 7
    table[Kind.ELECTRON, 1], table[Kind.ELECTRON, -1] = 3, 4
    plus = 5 if muon_ids == "plus_5" else 6
    table[Kind.MUON, 1], table[Kind.MUON, -1] = plus, 11 - plus
    return table[objects, charges]


def split_sizes(num_events: int) -> dict[Split, int]:
    """Sizes of the splits, 80 / 10 / 10 as in the public file.

    Args:
        num_events: Events of all splits.

    Returns:
        Number of events of each split; rounding goes to `train`.
    """
    tenth = num_events // 10
    return {"train": num_events - 2 * tenth, "val": tenth, "test": tenth}


def class_sizes(num_events: int) -> dict[int, int]:
    """Events of each class in a split, by largest remainders.

    Args:
        num_events: Events of the split.

    Returns:
        Number of events for each label; they add up to `num_events`.
    """
    total = sum(CLASS_WEIGHTS.values())
    sizes = {label: num_events * weight // total for label, weight in CLASS_WEIGHTS.items()}
    remainders = {label: num_events * weight % total for label, weight in CLASS_WEIGHTS.items()}
    missing = num_events - sum(sizes.values())
    for label in sorted(remainders, key=lambda label: (-remainders[label], label))[:missing]:
        sizes[label] += 1
    return sizes
