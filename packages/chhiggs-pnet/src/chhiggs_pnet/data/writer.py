"""Events to ROOT files in either layout, streamed.

TTrees with jagged branches, LZ4 level 1. A file appears complete or not at all, with a sha256 manifest.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np
import uproot

from chhiggs_pnet.data import schema
from chhiggs_pnet.data.schema import Layout
from chhiggs_pnet.physics.events import Array, Events, Object
from hep_shared.files import atomic_path, manifest_path, write_manifest

_KINDS = {"Muon": Object.MUON, "Electron": Object.ELECTRON, "Jet": Object.JET}


class EventWriter:
    """Write one tree chunk by chunk.

    Use as a context manager: leaving it normally completes the file and its manifest, an exception leaves
    neither.

    Args:
        path: The file; an existing one is replaced on success.
        layout: Names of the branches.
        manifest: What else the manifest should hold; entries may be added until the end.
    """

    def __init__(self, path: Path, layout: Layout, *, manifest: Mapping[str, object] | None = None) -> None:
        self.path, self.layout = Path(path), layout
        self.manifest = dict(manifest or {})
        self.num_events = 0

    def __enter__(self) -> Self:
        collections = {
            name: ak.types.from_datashape(
                f"var * {{{', '.join(f'{field}: {kind}' for field, kind in fields.values())}}}",
                highlevel=False,
            )
            for name, fields in schema.COLLECTIONS[self.layout].items()
        }
        scalars = dict(schema.SCALARS[self.layout].values())
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            file = stack.enter_context(uproot.recreate(temporary, compression=uproot.LZ4(1)))
            self._tree = file.mktree(
                schema.TREE,
                {**scalars, **collections},
                counter_name=lambda outer: schema.counter_name(self.layout, outer),
                field_name=lambda outer, inner: (
                    schema.branch_name(self.layout, outer, inner) if outer else inner
                ),
            )
            self._stack = stack.pop_all()
        return self

    def extend(self, events: Events) -> None:
        """Append events.

        Args:
            events: Any number of events.
        """
        if len(events) == 0:
            return
        columns: dict[str, Any] = {}
        for quantity, (name, dtype) in schema.SCALARS[self.layout].items():
            column = getattr(events, quantity) if hasattr(events, quantity) else np.ones(len(events))
            columns[name] = column.astype(dtype)
        for collection, fields in schema.COLLECTIONS[self.layout].items():
            mask = events.kind == _KINDS[collection]
            counts = mask.sum(axis=1)
            columns[collection] = ak.zip(
                {
                    field: ak.unflatten(_quantity(events, quantity, mask).astype(dtype), counts)
                    for quantity, (field, dtype) in fields.items()
                }
            )
        self._tree.extend(columns)
        self.num_events += len(events)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error  # inside the stack, which removes the temporary file and explains a full disk
            # The old manifest must not stand beside the new file, whatever happens in between.
            manifest_path(self.path).unlink(missing_ok=True)
        write_manifest(self.path, layout=self.layout, num_events=self.num_events, **self.manifest)


def _quantity(events: Events, quantity: str, mask: Array) -> Array:
    if quantity == "loose":
        return np.ones(int(mask.sum()), np.bool_)
    if quantity == "jet_id":
        return np.full(int(mask.sum()), schema.JET_ID)
    if quantity == "isolation":
        return np.where(events.tight[mask], schema.ISOLATION_IF_TIGHT, schema.ISOLATION_IF_LOOSE)
    column: Array = getattr(events, quantity)[mask]
    return column
