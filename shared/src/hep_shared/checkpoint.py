"""Checkpoints that hold tensors and plain values only, and that cannot run code when they are loaded.

A torch archive is a zip file. ``torch.load`` does not compare the CRC-32 sums in it, so bit flips in the
numbers would go unnoticed; `load_checkpoint_file` compares them, or a sha256 where one is known.
"""

import hashlib
import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hep_shared.errors import CheckpointError

Data = dict[str, Any]
_PLAIN = (int, float, bool, str, bytes, type(None))


def load_checkpoint_file(
    path: Path,
    map_location: Any = "cpu",
    *,
    sha256: str | None = None,
    remedy: str = "use another checkpoint",
) -> Data:
    """Load a checkpoint from any path without running code from it.

    Args:
        path: The file.
        map_location: Where tensors go, as in torch.load.
        sha256: Digest to check; without one the CRC-32 sums inside the file are.
        remedy: Closing clause of the error.

    Returns:
        The state.

    Raises:
        CheckpointError: The file is missing, damaged or not a checkpoint.
    """
    import torch

    try:
        data = Path(path).read_bytes()
        if sha256 is None:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"wrong CRC-32 of {damaged}")
        elif hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("its sha256 differs from the recorded one")
        state = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {remedy}.") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(". ")
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({reason}); {remedy}.") from error
    return state


def capture(**objects: Any) -> Data:
    """State of a training.

    Args:
        objects: Anything with a ``state_dict()``, by name.

    Returns:
        Their states by name, and the states of torch's random generators under ``rng``.
    """
    import torch

    state: Data = {name: obj.state_dict() for name, obj in objects.items()}
    state["rng"] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["rng"]["cuda"] = torch.cuda.get_rng_state()  # of the current device: one process has one
    return state


def restore(state: Mapping[str, Any], **objects: Any) -> None:
    """Put a training back into a captured state.

    Args:
        state: What `capture` returned.
        objects: Anything with a ``load_state_dict()``, under the names it was captured with.

    Raises:
        CheckpointError: The state lacks a name, or was made for another model.
    """
    import torch

    for name, obj in objects.items():
        if name not in state:
            raise CheckpointError(
                f"the checkpoint holds no '{name}' but only {', '.join(state)}; train again."
            )
        try:
            obj.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            remedy = "build it with the configuration in the run directory"
            raise CheckpointError(f"the checkpoint does not fit '{name}' ({reason}); {remedy}.") from error
    if "rng" in state:
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if "cuda" in state["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu())


def refuse_objects(value: Any, where: str) -> None:
    """Fail at saving, not at loading: ``weights_only`` reads tensors and plain Python values only."""
    import torch

    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            refuse_objects(key, f"a key of {where}")
            refuse_objects(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for number, item in enumerate(value):
            refuse_objects(item, f"{where}[{number}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in _PLAIN:
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values")
