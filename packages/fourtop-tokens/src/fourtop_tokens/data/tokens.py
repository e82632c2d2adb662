"""Read binned files, ours and those of others, and compare them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import read_labels
from fourtop_tokens.data.schema import SPLITS, X_KEYS, Y_KEYS, Split
from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from hep_shared.errors import InputFileError
from hep_shared.files import reader_boundary, verify_manifest

Tokens = NDArray[np.int64]
_AGAIN = "make it again with `fourtop-tokens tokenize`"
_OTHER_BINS = (
    "give a file with the same bins, or say which it has: --num-bins and --with-energy, in a training "
    "model.tokens.num_bins and model.tokens.with_energy"
)


def read_tokens(path: str | Path, vocabulary: Vocabulary) -> dict[str, Tokens]:
    """Read every table of tokens in a file, whatever its keys.

    Args:
        path: HDF5 file; a file with a single split is as good.
        vocabulary: The numbering its tokens must follow.

    Returns:
        Tokens (N, 20) by split, or by the name of the data set where that is not one of the format's.

    Raises:
        InputFileError: The file is missing, damaged or without tokens, names another vocabulary size, or
            holds a token outside the vocabulary.
    """
    verify_manifest(path)
    names = {key: split for split, key in X_KEYS.items()}
    tables: dict[str, Tokens] = {}
    with reader_boundary(path, remedy=_AGAIN), h5py.File(path, "r") as file:
        size = int(file.attrs.get(schema.ATTR_VOCAB_SIZE, vocabulary.size))
        if size != vocabulary.size:
            problem = f"has a vocabulary of {size} tokens instead of {vocabulary.size}"
            raise InputFileError(path, problem, _OTHER_BINS, branch=schema.ATTR_VOCAB_SIZE)
        for key, item in file.items():
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" and _is_table(item.shape):
                tables[names.get(key, key)] = _checked(path, key, item[:], vocabulary)
        if not tables:
            problem = f"holds no data set of {schema.NUM_TOKENS} columns, only {', '.join(file) or 'nothing'}"
            raise InputFileError(path, problem, "give a binned file")
    return tables


def read_binned(
    path: str | Path, vocabulary: Vocabulary
) -> tuple[dict[Split, tuple[Tokens, NDArray[np.int8]]], Binning | None]:
    """Read a binned file for training.

    Args:
        path: HDF5 file with all splits.
        vocabulary: The numbering that the model expects.

    Returns:
        Tokens (N, 20) and labels (N,) of each split, and the binning if the file names it.

    Raises:
        InputFileError: As `read_tokens`; or a split is missing, or labels do not fit.
    """
    tables = read_tokens(path, vocabulary)
    splits: dict[Split, tuple[Tokens, NDArray[np.int8]]] = {}
    with reader_boundary(path, remedy=_AGAIN), h5py.File(path, "r") as file:
        text = file.attrs.get(schema.ATTR_BINNING)
        for split in SPLITS:
            if split not in tables or Y_KEYS[split] not in file:
                key = X_KEYS[split] if split not in tables else Y_KEYS[split]
                raise InputFileError(path, "is missing", "give a file with all splits", branch=key)
            labels = read_labels(path, split, file[Y_KEYS[split]][:])
            if labels.shape != (len(tables[split]),):
                problem = f"has {labels.size} labels for {len(tables[split])} events"
                raise InputFileError(path, problem, _AGAIN, branch=Y_KEYS[split])
            splits[split] = (tables[split], labels)
        return splits, None if text is None else Binning.from_json(str(text))


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] == schema.NUM_TOKENS


def _checked(path: str | Path, key: str, values: NDArray[Any], vocabulary: Vocabulary) -> Tokens:
    first_met = vocabulary.num_object_tokens + 1
    low, high = np.zeros(schema.NUM_TOKENS), np.full(schema.NUM_TOKENS, vocabulary.num_object_tokens)
    low[-2:] = first_met, first_met + vocabulary.num_bins
    high[-2:] = low[-2:] + vocabulary.num_bins - 1
    bad = np.argwhere(~((values >= low) & (values <= high) & (values == np.trunc(values))))
    if len(bad):
        event, column = (int(i) for i in bad[0])
        token = f"{values[event, column]:g}"
        problem = f"{token} is not a token of column {column} in a vocabulary of {vocabulary.size}"
        raise InputFileError(path, problem, _OTHER_BINS, branch=key, entry=event)
    return values.astype(np.int64)


def compare_tokens(
    ours: Mapping[str, Tokens], theirs: Mapping[str, Tokens], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Compare two tokenisations.

    Events are compared one by one where both files have a split with the same number of events, else where
    all their events together are equally many; otherwise only distributions are.

    Args:
        ours: Tokens (N, 20) by split.
        theirs: The same from another file.
        vocabulary: The numbering of both.

    Returns:
        `vocabulary`: used tokens of each, their overlap (Jaccard); `distributions`: for each field the shares
        of its bins in both and their total variation distance; `events`: how the events were matched (None:
        not at all), the fraction of equal tokens, of equal padding, of each field (objects present in both),
        and the overlap of an event's objects regardless of order.
    """
    pairs = {
        split: (ours[split], theirs[split])
        for split in ours
        if split in theirs and len(ours[split]) == len(theirs[split])
    }
    all_ours, all_theirs = np.concatenate([*ours.values()]), np.concatenate([*theirs.values()])
    if not pairs and len(all_ours) == len(all_theirs):
        pairs = {"all": (all_ours, all_theirs)}
    used_ours, used_theirs = np.unique(all_ours), np.unique(all_theirs)
    common = np.intersect1d(used_ours, used_theirs, assume_unique=True).size
    return {
        "num_events": {"ours": len(all_ours), "theirs": len(all_theirs)},
        "vocabulary": {
            "ours": used_ours.size,
            "theirs": used_theirs.size,
            "common": common,
            "overlap": common / (used_ours.size + used_theirs.size - common),
        },
        "distributions": _distributions(all_ours, all_theirs, vocabulary),
        "events": _agreement(pairs, vocabulary) if pairs else None,
    }


def _distributions(ours: Tokens, theirs: Tokens, vocabulary: Vocabulary) -> dict[str, Any]:
    result: dict[str, Any] = {}
    fields_ours, fields_theirs = vocabulary.decode(ours), vocabulary.decode(theirs)
    for name in fields_ours:
        num = schema.NUM_IDS if name == "id" else vocabulary.num_bins
        shares = [_shares(fields[name], num) for fields in (fields_ours, fields_theirs)]
        distance = 0.5 * float(np.abs(shares[0] - shares[1]).sum())
        result[name] = {"ours": shares[0], "theirs": shares[1], "total_variation": distance}
    return result


def _shares(bins: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    counts = np.bincount(bins.ravel(), minlength=num + 1)[1:]
    return np.asarray(counts / max(counts.sum(), 1))


def _agreement(pairs: dict[str, tuple[Tokens, Tokens]], vocabulary: Vocabulary) -> dict[str, Any]:
    ours, theirs = (np.concatenate([pair[i] for pair in pairs.values()]) for i in (0, 1))
    objects_ours, objects_theirs = ours[:, : schema.NUM_OBJECTS], theirs[:, : schema.NUM_OBJECTS]
    both = (objects_ours != schema.PAD) & (objects_theirs != schema.PAD)
    fields_ours, fields_theirs = vocabulary.decode(ours), vocabulary.decode(theirs)
    fields = {}
    for name, bins in fields_ours.items():
        equal = bins == fields_theirs[name]
        fields[name] = _mean(equal[both] if equal.ndim == 2 else equal)
    return {
        "matched_by": sorted(pairs),
        "num_events": len(ours),
        "tokens": _mean(ours == theirs),
        "objects": _mean((objects_ours == objects_theirs)[both]),
        "padding": _mean((objects_ours == schema.PAD) == (objects_theirs == schema.PAD)),
        "fields": fields,
        "any_order": _multiset_overlap(objects_ours, objects_theirs, vocabulary.size),
    }


def _mean(equal: NDArray[np.bool_]) -> float:
    return float(equal.mean()) if equal.size else 1.0


def _multiset_overlap(ours: Tokens, theirs: Tokens, size: int) -> float:
    """Common objects over the larger number of objects, summed over all events."""
    event = np.arange(len(ours))[:, None] * size
    keys_ours, counts_ours = np.unique((event + ours)[ours != schema.PAD], return_counts=True)
    keys_theirs, counts_theirs = np.unique((event + theirs)[theirs != schema.PAD], return_counts=True)
    _, at_ours, at_theirs = np.intersect1d(keys_ours, keys_theirs, assume_unique=True, return_indices=True)
    common = np.minimum(counts_ours[at_ours], counts_theirs[at_theirs]).sum()
    larger = np.maximum((ours != schema.PAD).sum(axis=1), (theirs != schema.PAD).sum(axis=1)).sum()
    return float(common / larger) if larger else 1.0
