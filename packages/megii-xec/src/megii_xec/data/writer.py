"""Photon trees and prediction trees on disk, streamed.

Files hold TTrees (ROOT macros read those; RNTuples not all of them), compressed with LZ4 level 1, in baskets
of 500 events: the fastest to read back among the usual settings. Memory is bounded by one basket of every
branch. A file appears complete or not at all, with a sha256 manifest beside it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import uproot
from numpy.typing import NDArray

from hep_shared.errors import UserError
from hep_shared.files import atomic_path, manifest_path, write_manifest
from megii_xec.data.schema import TREE, Branch

Array = NDArray[Any]

BASKET_EVENTS = 500


class TreeWriter:
    """Write one tree event by event chunk.

    Use as a context manager: leaving it normally completes the file and its manifest, an exception leaves
    neither.

    Args:
        path: The file; an existing one is replaced on success.
        branches: Branches with shape and type; columns are checked against them. Without it the first chunk
            defines names, shapes and types, which serves predictions.
        tree: Name of the tree.
        basket_events: Events per basket.
        manifest: What else the manifest should hold.
    """

    def __init__(
        self,
        path: Path,
        branches: Sequence[Branch] | None = None,
        *,
        tree: str = TREE,
        basket_events: int = BASKET_EVENTS,
        manifest: Mapping[str, object] | None = None,
    ) -> None:
        self.path = Path(path)
        self.num_events = 0
        self._types: dict[str, np.dtype[Any]] | None = None
        if branches is not None:
            self._types = {branch.name: np.dtype((branch.dtype, branch.shape)) for branch in branches}
        self._name = tree
        self._basket_events = basket_events
        self._manifest = dict(manifest or {})
        self._buffer: list[dict[str, Array]] = []
        self._num_buffered = 0
        self._stack = ExitStack()
        self._tree: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(uproot.recreate(temporary, compression=uproot.LZ4(1)))
            if self._types is not None:
                self._tree = self._file.mktree(self._name, self._types)
            self._stack = stack.pop_all()
        return self

    def extend(self, columns: Mapping[str, Array]) -> None:
        """Append events.

        Args:
            columns: One array per branch, first axis the events, all of the same length.

        Raises:
            ValueError: Names, shapes or lengths do not match the branches.
        """
        if self._types is None:
            self._types = {
                name: np.dtype((column.dtype.str, column.shape[1:])) for name, column in columns.items()
            }
            self._tree = self._file.mktree(self._name, self._types)
        if columns.keys() != self._types.keys():
            odd = sorted(columns.keys() ^ self._types.keys())
            raise ValueError(f"columns and branches of {self.path} differ in {odd}")
        num = len(next(iter(columns.values())))
        for name, column in columns.items():
            if column.shape != (num, *self._types[name].shape):
                raise ValueError(
                    f"column '{name}' has shape {column.shape}, expected {(num, *self._types[name].shape)}"
                )
        first = 0
        while first < num:
            last = min(num, first + self._basket_events - self._num_buffered)
            # Copies: the caller may reuse its arrays before the basket is full.
            self._buffer.append(
                {
                    name: np.array(column[first:last], dtype=self._types[name].base)
                    for name, column in columns.items()
                }
            )
            self._num_buffered += last - first
            first = last
            if self._num_buffered == self._basket_events:
                self._flush()

    def _flush(self) -> None:
        if self._num_buffered == 0:
            return
        assert self._types is not None
        self._tree.extend(
            {name: np.concatenate([part[name] for part in self._buffer]) for name in self._types}
        )
        self.num_events += self._num_buffered
        self._buffer, self._num_buffered = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error  # inside the stack, which removes the temporary file and explains a full disk
            self._flush()
            if self._tree is None:
                raise UserError(f"{self.path} would hold no events; check the selection of the input.")
            # The old manifest must not stand beside the new file, whatever happens in between.
            manifest_path(self.path).unlink(missing_ok=True)
        write_manifest(self.path, tree=self._name, num_events=self.num_events, **self._manifest)


def write_tree(
    path: Path,
    columns: Mapping[str, Array],
    branches: Sequence[Branch] | None = None,
    *,
    tree: str = TREE,
    manifest: Mapping[str, object] | None = None,
) -> None:
    """Write a tree that fits in memory.

    Args:
        path: The file.
        columns: One array per branch, first axis the events.
        branches: See `TreeWriter`.
        tree: Name of the tree.
        manifest: What else the manifest should hold.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    with TreeWriter(path, branches, tree=tree, manifest=manifest) as writer:
        writer.extend(columns)
