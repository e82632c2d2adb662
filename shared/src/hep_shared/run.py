"""The run directory: the truth about one training, whole at any moment.

::

    config.json                       resolved configuration, command, versions, git revision, platform, start
    history.jsonl                     one JSON object a line; a number that is not finite is null
    checkpoints/index.json            names last and best, with the sha256 of every checkpoint
    checkpoints/step_00000123_<sha>.pt
    figures/                          CHECKPOINTED while the run waits to be resumed

A checkpoint gets a name of its own (step and digest) and is on the disk before the index is replaced in
one rename; older files go only after the index no longer names them. So a kill at any moment leaves an index
whose checkpoints are complete. Only the main process of a distributed training may create, log and save.
"""

import hashlib
import importlib.metadata
import io
import json
import math
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hep_shared.checkpoint import capture, load_checkpoint_file, refuse_objects, restore
from hep_shared.config import to_plain
from hep_shared.errors import CheckpointError, UserError
from hep_shared.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    json_ready,
    make_directory,
    reader_boundary,
    remove_temporaries,
    write_boundary,
)
from hep_shared.signals import StopTraining
from hep_shared.sinks import open_sinks

__all__ = ["RunDir", "capture", "load_checkpoint_file", "restore"]

Data = dict[str, Any]


class RunDir:
    """A run directory; make one with `create` or `open`.

    Args:
        path: The directory.
        sinks: Names of trackers that also get every record, see `hep_shared.sinks`.
    """

    def __init__(self, path: Path, sinks: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self._checkpoints = self.path / "checkpoints"
        self._history = self.path / "history.jsonl"
        self._sinks = open_sinks(sinks, self.path)

    @classmethod
    def create(
        cls,
        path: Path,
        config: BaseModel | Mapping[str, Any],
        *,
        command: str | Sequence[str],
        sinks: Sequence[str] = (),
        resume: bool = False,
    ) -> "RunDir":
        """Begin a run, or go on with the one that is there.

        Args:
            path: The directory; made when missing.
            config: The resolved configuration.
            command: The command line.
            sinks: Names of trackers, see `hep_shared.sinks`.
            resume: Go on with a run found there: the history is cut back to its last checkpoint. Without a
                run there, begin one, so that a requeued job needs no other command.

        Returns:
            The run directory.

        Raises:
            UserError: The directory holds a run and `resume` is off, or it cannot be written.
        """
        path = Path(path)
        config = to_plain(config) if isinstance(config, BaseModel) else json_ready(config)
        record = {"config": config, **_provenance(command)}
        if (path / "config.json").exists():
            if not resume:
                raise UserError(f"--out {path} holds a run already; pass --resume or another --out.")
            former = _read_record(path)
            start = {key: former.get(key) for key in ("command", "start_time", "git", "python")}
            changed = {} if former["config"] == config else {"config": former["config"]}
            record["earlier_starts"] = [*former.get("earlier_starts", []), start | changed]
        atomic_write_json(path / "config.json", record)
        run = cls(path, sinks)
        make_directory(run._checkpoints)
        make_directory(path / "figures")
        (path / "CHECKPOINTED").unlink(missing_ok=True)
        for directory in (path, run._checkpoints, path / "figures"):
            remove_temporaries(directory)
        run.truncate_history(run._index().get("last", {}).get("step", -1))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Open a run to read it.

        Args:
            path: The directory.

        Returns:
            The run directory.

        Raises:
            UserError: There is no run.
        """
        _read_record(Path(path))
        return cls(path)

    @property
    def config(self) -> Data:
        """The resolved configuration of the latest start."""
        config: Data = _read_record(self.path)["config"]
        return config

    # History

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to the history and hand it to the trackers.

        Args:
            record: Names and values; ``step`` is what `truncate_history` looks at.

        Raises:
            UserError: The disk is full.
        """
        line = json.dumps(json_ready(record), allow_nan=False) + "\n"
        with write_boundary(self._history), self._history.open("a", encoding="utf-8") as file:
            file.write(line)
        self._sinks.log(record)

    def history(self) -> list[Data]:
        """Every record, in order.

        Returns:
            The records; a last line that a kill cut short is left out.

        Raises:
            InputFileError: A line before the last is damaged.
        """
        if not self._history.exists():
            return []
        with reader_boundary(self._history, remedy="remove the damaged line"):
            *lines, _unfinished = self._history.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines]

    def truncate_history(self, step: int) -> None:
        """Forget what was logged after a checkpoint.

        Args:
            step: Records with a larger ``step`` go; records without one stay.
        """
        kept = [json.dumps(record) + "\n" for record in self.history() if record.get("step", step) <= step]
        if self._history.exists():
            atomic_write_text(self._history, "".join(kept))

    # Checkpoints

    def save_checkpoint(
        self,
        state: Mapping[str, Any],
        *,
        step: int,
        metric: float | None = None,
        mode: Literal["min", "max"] = "min",
        keep_every: int | None = None,
        keep_last: int = 2,
    ) -> Path:
        """Save a checkpoint as ``last``, and as ``best`` when its metric is.

        Args:
            state: Nested dicts and lists of tensors, numbers and strings.
            step: Number of optimiser steps done.
            metric: Validation metric; not finite is never best.
            mode: Whether a smaller or a larger metric is better.
            keep_every: Keep for good the checkpoints whose step is a multiple of this.
            keep_last: How many of the latest to keep, so that a damaged disk block costs one checkpoint.

        Returns:
            The checkpoint file.

        Raises:
            TypeError: The state holds an object that only pickle could store.
            UserError: The disk is full.
        """
        import torch

        state = dict(state)
        refuse_objects(state, "state")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with buffer.getbuffer() as content:  # released even where the disk is full
            digest = hashlib.sha256(content).hexdigest()
            path = self._checkpoints / f"step_{step:08d}_{digest[:8]}.pt"
            atomic_write_bytes(path, content)

        index = self._index()
        entry = {"file": path.name, "step": step, "sha256": digest, "metric": json_ready(metric)}
        former = [old for old in index.get("checkpoints", []) if old["file"] != path.name]
        best = index.get("best")
        if metric is not None and math.isfinite(metric):
            sign = 1 if mode == "min" else -1
            best = entry if best is None or sign * metric < sign * best["metric"] else best
        recent = [*former, entry][-max(keep_last, 1) :]
        kept = [
            old
            for old in [*former, entry]
            if old in recent
            or (best and old["file"] == best["file"])
            or (keep_every and old["step"] % keep_every == 0)
        ]
        atomic_write_json(self._index_path, {"last": entry, "best": best, "checkpoints": kept})
        names = {old["file"] for old in kept}
        for file in self._checkpoints.glob("step_*.pt"):
            if file.name not in names:
                file.unlink()
        return path

    def load_checkpoint(self, which: str = "last", map_location: Any = "cpu") -> Data:
        """Load a checkpoint of this run after checking its digest.

        Args:
            which: ``"last"``, ``"best"`` or a file name in ``checkpoints``.
            map_location: Where tensors go, as in torch.load.

        Returns:
            The state.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        index = self._index()
        others = [entry["file"] for entry in index.get("checkpoints", [])]
        entry = index.get(which) or next(
            (e for e in index.get("checkpoints", []) if e["file"] == which), None
        )
        if not isinstance(entry, dict):
            remedy = f"the run has {', '.join(others)}" if others else "train the run first"
            raise CheckpointError(f"{self._checkpoints} holds no checkpoint '{which}'; {remedy}.")
        others = [name for name in others if name != entry["file"]]
        remedy = f"use another one of the run: {', '.join(others)}" if others else "train the run again"
        return load_checkpoint_file(
            self._checkpoints / entry["file"], map_location, sha256=entry["sha256"], remedy=remedy
        )

    def has_checkpoint(self, which: str = "last") -> bool:
        """Whether the run has a checkpoint.

        Args:
            which: ``"last"`` or ``"best"``.

        Returns:
            True when `load_checkpoint` would find it.
        """
        return bool(self._index().get(which))

    @property
    def best_metric(self) -> float | None:
        """Metric of the best checkpoint so far, None before the first."""
        best = self._index().get("best") or {}
        return best.get("metric")

    def stop(self) -> StopTraining:
        """End the run after a stop request, once the checkpoint is saved: ``raise run.stop()``.

        Writes the file CHECKPOINTED into the run directory. torchrun leaves with 1 whatever its workers leave
        with, so a batch wrapper that finds this file maps that 1 to 85. The next start removes it.

        Returns:
            The exception to raise.
        """
        checkpoint = self._checkpoints / self._index()["last"]["file"]
        atomic_write_text(self.path / "CHECKPOINTED", f"{checkpoint.name}\n")
        self.close()
        return StopTraining(checkpoint)

    @property
    def _index_path(self) -> Path:
        return self._checkpoints / "index.json"

    def _index(self) -> Data:
        if not self._index_path.exists():
            return {}
        with reader_boundary(self._index_path, remedy="restore it, or load a checkpoint file by its path"):
            index: Data = json.loads(self._index_path.read_text())
        return index

    # Other files

    def figure_path(self, name: str) -> Path:
        """Where a figure goes.

        Args:
            name: File name with suffix.

        Returns:
            ``figures/<name>``; the directory exists.
        """
        path = self.path / "figures" / name
        make_directory(path.parent)
        return path

    def write_json(self, name: str, obj: object) -> Path:
        """Write strict JSON into the run directory.

        Args:
            name: File name.
            obj: Anything that `hep_shared.files.json_ready` accepts.

        Returns:
            The file.
        """
        path = self.path / name
        atomic_write_json(path, obj)
        return path

    def close(self) -> None:
        """Close the trackers."""
        self._sinks.close()


def _read_record(path: Path) -> Data:
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} holds no run (config.json is missing); give the directory of a training.")
    with reader_boundary(file, remedy="restore it from a copy"):
        record: Data = json.loads(file.read_text())
        if not isinstance(record["config"], dict):
            raise TypeError("its 'config' is no mapping")
    return record


def _provenance(command: str | Sequence[str]) -> Data:
    return {
        "command": command if isinstance(command, str) else shlex.join(command),
        "start_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_revision(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {d.name: d.version for d in importlib.metadata.distributions()},
    }


def git_revision() -> str | None:
    """Revision of the checkout that this code runs from.

    Returns:
        The commit, ``-dirty`` when the checkout has changes; None outside of a checkout, also when the code
        is installed into an environment that lies inside somebody else's.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for command in (
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            [*git, "describe", "--always", "--dirty", "--abbrev=40"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
