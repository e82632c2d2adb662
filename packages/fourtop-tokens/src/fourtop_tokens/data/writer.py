"""Write events and tokens to HDF5: whole files only, every chunk with a checksum, a sha256 manifest beside.

The fletcher32 filter makes HDF5 itself refuse a chunk with damaged numbers; the manifest covers the rest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet
from fourtop_tokens.data.schema import X_KEYS, Y_KEYS, Split
from hep_shared.files import atomic_path, json_ready, write_manifest

_CHUNK_ROWS = 4096


def write_events(
    path: str | Path, splits: Mapping[Split, EventSet], provenance: Mapping[str, object]
) -> None:
    """Write a file in the public format.

    Args:
        path: The file.
        splits: Events of each split.
        provenance: How the events came about; stored as JSON in an attribute and in the manifest.

    Raises:
        UserError: The file cannot be written.
    """
    rows = {split: events.to_columns() for split, events in splits.items()}
    labels = {split: events.labels for split, events in splits.items()}
    attributes = {schema.ATTR_PROVENANCE: _json(provenance), schema.ATTR_UNITS: "GeV, rad"}
    _write(path, rows, labels, attributes)
    write_manifest(path, provenance=provenance)


def write_tokens(
    path: str | Path,
    tokens: Mapping[Split, NDArray[np.int64]],
    labels: Mapping[Split, NDArray[np.int8]],
    *,
    num_bins: int,
    vocab_size: int,
    binning: str,
    provenance: Mapping[str, object],
) -> None:
    """Write a binned file.

    Args:
        path: The file.
        tokens: Tokens of each split, (N, 20).
        labels: Labels of each split, (N,).
        num_bins: Bins of each quantity.
        vocab_size: Number of different tokens, padding included.
        binning: The binning as JSON.
        provenance: Where the tokens come from; stored as JSON in an attribute and in the manifest.

    Raises:
        UserError: The file cannot be written.
    """
    attributes = {
        schema.ATTR_NUM_BINS: num_bins,
        schema.ATTR_VOCAB_SIZE: vocab_size,
        schema.ATTR_NUM_TOKENS: schema.NUM_TOKENS,
        schema.ATTR_BINNING: binning,
        schema.ATTR_PROVENANCE: _json(provenance),
    }
    _write(path, tokens, labels, attributes)
    write_manifest(path, provenance=provenance)


def _json(obj: Mapping[str, object]) -> str:
    return json.dumps(json_ready(obj), allow_nan=False)


def _write(
    path: str | Path,
    rows: Mapping[Split, NDArray[Any]],
    labels: Mapping[Split, NDArray[np.int8]],
    attributes: Mapping[str, object],
) -> None:
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for split, table in rows.items():
            _create(file, X_KEYS[split], table)
            _create(file, Y_KEYS[split], labels[split].astype(np.float32))
        file.attrs.update(attributes)


def _create(file: h5py.File, key: str, data: NDArray[Any]) -> None:
    chunks = (max(1, min(_CHUNK_ROWS, len(data))), *data.shape[1:])
    file.create_dataset(
        key, data=data, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True, fletcher32=True
    )
