"""`xec cache`: foreign ROOT files, decoded once and written as they are read fastest.

ROOT's own default, ZLIB in baskets of a few events, is read 6 to 38 times slower than LZ4 in baskets of 500.
Values are not changed; branches that no part of the package knows are left out. A file that is cached
already, from a source of the same size and time, is not made again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hep_shared.errors import UserError
from hep_shared.files import verify_manifest
from megii_xec.data import checks
from megii_xec.data.reader import PhotonFile
from megii_xec.data.schema import BRANCHES, EVENT, NPHO, RUN, TIME
from megii_xec.data.writer import BASKET_EVENTS, TreeWriter

NEEDED = (RUN, EVENT, NPHO, TIME)


def cache(inputs: Sequence[str], out: Path) -> dict[str, Any]:
    """Copy photon files.

    Args:
        inputs: ROOT files or globs.
        out: Directory for the copies, which keep their names.

    Returns:
        The copies, how many of them were made by this call, events, and sizes before and after.

    Raises:
        UserError: A file cannot be read, two have one name, or a copy would replace its source.
    """
    files = checks.expand_paths(inputs)
    names = [file.name for file in files]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--input names two files called {double}; cache them into two directories.")
    copies, made, events = [], 0, 0
    for file in files:
        copy = out / file.name
        if copy.resolve() == file.resolve():
            raise UserError(f"--out {out} holds {file.name} itself; choose another directory for the copies.")
        source = {
            "name": str(file.resolve()),
            "size": file.stat().st_size,
            "time_ns": file.stat().st_mtime_ns,
        }
        if not _is_made(copy, source):
            _copy(file, copy, source)
            made += 1
        manifest = verify_manifest(copy) or {}
        events += int(manifest.get("num_events", 0))
        copies.append(copy)
    return {
        "output": out,
        "num_files": len(copies),
        "num_made": made,
        "num_events": events,
        "size_before_mb": sum(file.stat().st_size for file in files) / 1e6,
        "size_after_mb": sum(copy.stat().st_size for copy in copies) / 1e6,
    }


def _is_made(copy: Path, source: dict[str, Any]) -> bool:
    try:
        manifest = verify_manifest(copy) if copy.exists() else None
    except UserError:
        return False
    return manifest is not None and manifest.get("source") == source


def _copy(file: Path, copy: Path, source: dict[str, Any]) -> None:
    with PhotonFile(file, NEEDED) as probe:
        present = tuple(branch for branch in BRANCHES if branch.name not in probe.missing)
    with (
        PhotonFile(file, present, verify=False) as reader,
        TreeWriter(copy, present, manifest={"source": source}) as writer,
    ):
        for start in range(0, reader.num_entries, BASKET_EVENTS):
            stop = min(start + BASKET_EVENTS, reader.num_entries)
            writer.extend(reader.columns(present, start, stop))
