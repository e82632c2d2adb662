"""JetClass files of a few jets, written with plain uproot so that every defect can be made on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from jet_foundation.data.jetclass import jet_columns
from jet_foundation.data.schema import TREE
from jet_foundation.physics.jet_table import Jets


@pytest.fixture
def make_file(tmp_path: Path, toy_jets: Jets) -> Callable[..., Path]:
    """Write a file whose columns are replaced, renamed (a string) or left out (None)."""

    def make(num_jets: int = 12, name: str = "jets.root", tree: str = TREE, **changes: Any) -> Path:
        columns = jet_columns(toy_jets.take(np.arange(0, len(toy_jets), 7)[:num_jets]))
        for branch, change in changes.items():
            if change is None or isinstance(change, str):
                values = columns.pop(branch)
                if change is not None:
                    columns[change] = values
            else:
                columns[branch] = change(columns[branch])
        path = tmp_path / name
        with uproot.recreate(path, compression=uproot.LZ4(4)) as file:
            types = {
                n: v.dtype if isinstance(v, np.ndarray) else ak.type(v).content for n, v in columns.items()
            }
            file.mktree(tree, types)
            file[tree].extend(columns)
        return path

    return make
