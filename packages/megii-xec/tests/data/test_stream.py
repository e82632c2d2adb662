import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uproot

from megii_xec.data.normalization import Normalization
from megii_xec.data.order import Lane, Piece, sequential_order, shuffled_order
from megii_xec.data.reader import PhotonFile
from megii_xec.data.schema import ENERGY_RECO, MISSING, NPHO, RELATIVE_TIME, RUN, UVW_TRUTH
from megii_xec.data.selection import Selection
from megii_xec.data.stream import PhotonBatch, PhotonStream

Columns = dict[str, np.ndarray]
NORMALIZATION = Normalization()


def open_stream(path: Path | list[Path], **options: Any) -> PhotonStream:
    settings = {"batch_size": 8, "chunk_events": 10, "num_lanes": 3, "seed": 5, **options}
    return PhotonStream(path, NORMALIZATION, **settings)


def read(path: Path | list[Path], epoch: int = 0, start: int = 0, **options: Any) -> list[PhotonBatch]:
    with open_stream(path, **options) as stream:
        return list(stream.batches(epoch, start))


def indices(batches: list[PhotonBatch]) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


def assert_same(first: list[PhotonBatch], second: list[PhotonBatch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.sensors, two.sensors)
        assert torch.equal(one.index, two.index)
        assert one.targets.keys() == two.targets.keys()
        assert all(torch.equal(one.targets[name], two.targets[name]) for name in one.targets)


def test_ordered_reading_gives_every_entry_once_with_its_own_values(photons: Path, columns: Columns) -> None:
    batches = read(
        photons, batch_size=7, targets=("energy", "uvwFI", "timing"), extra=(UVW_TRUTH, ENERGY_RECO)
    )
    assert max(len(batch) for batch in batches) <= 7
    joined = {
        name: torch.cat([getattr(b, name) for b in batches]).numpy() for name in ("index", "event", "run")
    }
    np.testing.assert_array_equal(joined["index"], np.arange(60))
    np.testing.assert_array_equal(joined["event"], columns["event"])
    np.testing.assert_array_equal(joined["run"], columns["run"])
    expected = NORMALIZATION.apply(columns["npho"], columns["relative_time"])
    np.testing.assert_array_equal(torch.cat([b.sensors for b in batches]).numpy(), expected)
    energy = torch.cat([b.targets["energy"] for b in batches])
    np.testing.assert_array_equal(energy[:, 0].numpy(), columns["energyTruth"])
    np.testing.assert_array_equal(torch.cat([b.extra["uvwTruth"] for b in batches]), columns["uvwTruth"])
    np.testing.assert_array_equal(torch.cat([b.extra["energyReco"] for b in batches]), columns["energyReco"])
    absolute = torch.cat([b.targets["timing"][:, 0] + b.time_min_s * 1e9 for b in batches])
    np.testing.assert_allclose(absolute.numpy(), columns["timeTruth"], atol=1e-3)
    assert batches[0].targets["energy"].dtype == torch.float32


def test_shuffled_epoch_has_whole_batches_without_repetition(photons: Path) -> None:
    batches = read(photons, shuffle=True)
    assert [len(batch) for batch in batches] == [8] * 7
    seen = list(itertools.chain(*indices(batches)))
    assert len(set(seen)) == 56
    assert seen != sorted(seen)
    # With six chunks of ten entries two of the three lanes may meet in one chunk.
    assert all(len({index // 10 for index in batch}) >= 2 for batch in indices(batches))


def test_rows_stay_together_under_shuffling(photons: Path, columns: Columns) -> None:
    for batch in read(photons, shuffle=True, targets=("energy",)):
        rows = batch.index.numpy()
        np.testing.assert_array_equal(batch.event.numpy(), columns["event"][rows])
        np.testing.assert_array_equal(batch.targets["energy"][:, 0].numpy(), columns["energyTruth"][rows])
        expected = NORMALIZATION.apply(columns["npho"][rows], columns["relative_time"][rows])
        np.testing.assert_array_equal(batch.sensors.numpy(), expected)


def test_order_depends_on_seed_and_epoch_only(photons: Path) -> None:
    first = indices(read(photons, shuffle=True))
    assert indices(read(photons, shuffle=True)) == first
    assert indices(read(photons, shuffle=True, epoch=1)) != first
    assert indices(read(photons, shuffle=True, seed=6)) != first


@pytest.mark.parametrize("num_workers", [2, 4])
def test_content_does_not_depend_on_the_number_of_threads(photons: Path, num_workers: int) -> None:
    options: dict[str, Any] = {"shuffle": True, "targets": ("energy",), "epoch": 3}
    assert_same(read(photons, num_workers=num_workers, **options), read(photons, num_workers=1, **options))


@pytest.mark.parametrize("start", [1, 3, 6])
@pytest.mark.parametrize("shuffle", [True, False])
def test_resumed_epoch_continues_exactly(photons: Path, start: int, shuffle: bool) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "targets": ("energy",), "epoch": 2}
    assert_same(read(photons, start=start, **options), read(photons, **options)[start:])
    assert read(photons, start=1000, **options) == []


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_share_the_global_batch(photons: Path, world_size: int) -> None:
    alone = indices(read(photons, shuffle=True))
    ranks = [
        indices(read(photons, shuffle=True, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    together = [list(itertools.chain(*shares)) for shares in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_read_consecutive_blocks_in_order(photons: Path, world_size: int) -> None:
    ranks = [
        read(photons, batch_size=12, rank=rank, world_size=world_size, targets=())
        for rank in range(world_size)
    ]
    assert list(itertools.chain(*itertools.chain(*map(indices, ranks)))) == list(range(60))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) for batches in ranks for batch in batches)


def test_lanes_spare_the_ranks_each_others_chunks() -> None:
    sizes = np.full(64, 100)
    read_by = []
    for rank in range(4):
        order = shuffled_order(sizes, batch_size=32, num_lanes=8, seed=1, epoch=0, rank=rank, world_size=4)
        read_by.append({use.chunk for use in order.uses()})
    assert sum(map(len, read_by)) <= 64 + 3 * 2


def test_chunks_in_memory_are_bounded_and_wanted_one_at_a_time() -> None:
    order = shuffled_order(
        np.full(64, 100), batch_size=32, num_lanes=8, seed=1, epoch=0, rank=0, world_size=1
    )
    uses = order.uses()
    in_use = [sum(use.first <= batch <= use.last for use in uses) for batch in range(order.num_batches)]
    assert max(in_use) <= 8 + 2
    later = [use.first for use in uses if use.first > 0]
    assert max(later.count(batch) for batch in set(later)) <= 2


def test_uses_cover_exactly_the_batches_that_need_a_chunk() -> None:
    lane = Lane([Piece(4, 3, 9), Piece(2, 0, 5), Piece(7, 0, 1)], num_batches=5)
    needed: dict[int, set[int]] = {}
    dealt = []
    for batch in range(5):
        for piece in lane.pieces(batch):
            needed.setdefault(piece.chunk, set()).add(batch)
            dealt += [(piece.chunk, row) for row in range(piece.start, piece.stop)]
    assert dealt == [(4, row) for row in range(3, 9)] + [(2, row) for row in range(5)] + [(7, 0)]
    for use in lane.uses():
        assert needed[use.chunk] == set(range(use.first, use.last + 1))


@pytest.mark.parametrize(
    ("total", "batch_size", "world_size"), [(10, 4, 4), (10, 4, 1), (5, 100, 4), (61, 6, 3)]
)
def test_sequential_order_is_complete_for_awkward_sizes(total: int, batch_size: int, world_size: int) -> None:
    found, counts = [], set()
    for rank in range(world_size):
        sizes = np.diff(np.unique([0, total // 3, total // 2, total]))
        order = sequential_order(sizes, batch_size=batch_size, rank=rank, world_size=world_size)
        counts.add(order.num_batches)
        ends = np.cumsum(sizes)
        for batch in range(order.num_batches):
            rows = [
                int(ends[p.chunk] - sizes[p.chunk]) + row
                for p in order.batch(batch)
                for row in range(p.start, p.stop)
            ]
            assert rows
            found += rows
    assert found == list(range(total))
    assert len(counts) == 1


def test_selection_keeps_the_right_events(photons: Path, columns: Columns) -> None:
    cut = Selection(energy_min_gev=0.03, u_max_cm=23.9, v_max_cm=20.0)
    u, v = np.abs(columns["uvwTruth"][:, 0]), np.abs(columns["uvwTruth"][:, 1])
    passed = np.flatnonzero((columns["energyTruth"] >= 0.03) & (u < 23.9) & (v < 20.0))
    assert 5 < len(passed) < 50
    batches = read(photons, selection=cut, batch_size=4)
    assert list(itertools.chain(*indices(batches))) == passed.tolist()
    shuffled = list(itertools.chain(*indices(read(photons, selection=cut, batch_size=4, shuffle=True))))
    assert set(shuffled) <= set(passed.tolist())
    assert len(set(shuffled)) == len(shuffled) == len(passed) // 4 * 4


def test_selection_on_reconstructed_energy(photons: Path, columns: Columns) -> None:
    batches = read(photons, selection=Selection(source="reco", energy_min_gev=0.04))
    expected = np.flatnonzero(columns["energyReco"] >= 0.04)
    assert list(itertools.chain(*indices(batches))) == expected.tolist()


def test_train_and_validation_split_every_file(photons: Path, make_photons: Callable[..., Path]) -> None:
    files = [photons, make_photons(num_events=20)]
    parts = {
        split: set(itertools.chain(*indices(read(files, split=split, validation_fraction=0.2, batch_size=4))))
        for split in ("train", "validation")
    }
    assert parts["validation"] == {*range(48, 60), *range(76, 80)}
    assert parts["train"] == set(range(80)) - parts["validation"]


def test_targets_can_be_scanned_without_sensors(photons: Path, columns: Columns) -> None:
    with open_stream(photons, targets=("energy", "angle")) as stream:
        scanned = stream.scan_targets()
    np.testing.assert_array_equal(scanned["energy"][:, 0], columns["energyTruth"])
    np.testing.assert_array_equal(scanned["angle"], columns["emiAng"])


def test_signature_notices_what_changes_the_batches(photons: Path, make_photons: Callable[..., Path]) -> None:
    def signature(path: Path, **options: Any) -> str:
        with open_stream(path, shuffle=True, **options) as stream:
            return stream.signature

    base = signature(photons)
    assert signature(photons, num_workers=3, rank=1, world_size=2) == base
    others = [
        signature(photons, seed=6),
        signature(photons, num_lanes=2),
        signature(photons, chunk_events=20),
    ]
    others.append(signature(make_photons(num_events=20)))
    assert len({base, *others}) == 5


def test_leaving_early_stops_the_threads(photons: Path) -> None:
    with open_stream(photons, num_workers=3) as stream:
        batches = stream.batches()
        next(batches)
        assert any(thread.name.startswith("photon-stream") for thread in threading.enumerate())
        batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("photon-stream") for thread in threading.enumerate())


def test_many_files_are_not_all_kept_open(tmp_path: Path, make_photons: Callable[..., Path]) -> None:
    paths = [make_photons(num_events=2, name=f"{number:02d}.root") for number in range(20)]
    with open_stream(paths, batch_size=2, num_workers=2) as stream:
        assert list(itertools.chain(*indices(list(stream.batches())))) == list(range(40))
        assert len(stream._pool._files) <= 16


@pytest.mark.parametrize(
    "compression", [uproot.LZ4(1), uproot.ZLIB(1), uproot.ZSTD(1), uproot.LZMA(1), uproot.ZLIB(0)], ids=str
)
def test_every_compression_of_root_is_read(
    make_photons: Callable[..., Path], compression: Any, columns: Columns
) -> None:
    path = make_photons(num_events=6, options={"compression": compression, "basket": 4})
    with uproot.open(path) as file:
        expected = NORMALIZATION.apply(
            *(file["tree"][name].array(library="np") for name in ("npho", "relative_time"))
        )
    np.testing.assert_array_equal(torch.cat([b.sensors for b in read(path)]).numpy(), expected)


def test_branches_with_different_baskets_are_aligned(tmp_path: Path, columns: Columns) -> None:
    names = ("npho", "relative_time", "run")
    path = tmp_path / "odd.root"
    with uproot.recreate(path) as file:
        tree = file.mktree("tree", {n: np.dtype((columns[n].dtype, columns[n].shape[1:])) for n in names})
        tree.extend({name: columns[name][:25] for name in names})
        tree.extend({name: columns[name][25:] for name in names})
    with PhotonFile(path, (NPHO, RELATIVE_TIME, RUN)) as photon_file:
        # Baskets of the writer coincide; pretend that those of the counts are found in other places.
        whole = NORMALIZATION.apply(columns["npho"], columns["relative_time"])
        pieces = photon_file.pieces

        def shifted(branch: Any, start: int, stop: int) -> Any:
            edges = [start, *range(start + 7, stop, 11), stop] if branch is NPHO else [start, stop]
            for low, high in itertools.pairwise(edges):
                yield np.concatenate([piece.copy() for piece, _ in pieces(branch, low, high)]), high

        photon_file.pieces = shifted  # type: ignore[method-assign]
        np.testing.assert_array_equal(photon_file.sensors(NORMALIZATION, 3, 57), whole[3:57])


@pytest.mark.parametrize(
    ("baskets", "chunk_events", "edges"),
    [(10, 20, [0, 20, 40, 60]), (10, 25, [0, 20, 50, 60]), (60, 20, [0, 20, 40, 60]), (4, 1000, [0, 60])],
)
def test_chunks_end_where_baskets_do(
    make_photons: Callable[..., Path], baskets: int, chunk_events: int, edges: list[int]
) -> None:
    path = make_photons(num_events=60, options={"basket": baskets})
    with PhotonFile(path, (NPHO,)) as file:
        assert file.chunk_edges(NPHO, chunk_events).tolist() == edges


MEMORY_PROGRAM = """
import resource, sys
from megii_xec.data.normalization import Normalization
from megii_xec.data.stream import PhotonStream
options = {"batch_size": 20, "chunk_events": 50, "num_lanes": 4, "shuffle": True}
with PhotonStream(sys.argv[1:], Normalization(), **options) as stream:
    num = sum(len(batch) for batch in stream.batches())
print(num, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_data(tmp_path: Path, make_photons: Callable[..., Path]) -> None:
    small = make_photons(num_events=200, name="0.root", options={"basket": 50})
    paths = [small]
    for number in range(1, 10):
        paths.append(tmp_path / f"{number}.root")
        paths[-1].hardlink_to(small)  # the same bytes under ten names: expand_paths keeps them apart

    def peak_mb(files: list[Path]) -> int:
        command = [sys.executable, "-c", MEMORY_PROGRAM, *map(str, files)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        num, peak = map(int, result.stdout.split())
        assert num == 200 * len(files)
        return peak

    # Ten times the data are 76 MB raw per 1000 events more; a few chunks of 2 MB are allowed for.
    assert peak_mb(paths) < peak_mb(paths[:1]) + 25


def test_events_without_any_time_are_left_out_where_timing_is_wanted(make_photons, caplog):
    earliest = np.full(6, -6e-8, np.float32)
    earliest[2] = MISSING
    path = make_photons(time_min_used=earliest)
    with PhotonStream(path, Normalization(), batch_size=6, targets=("timing",)) as stream:
        assert (stream.num_events, stream.num_without_time) == (5, 1)
        assert next(stream.batches()).event.tolist() == [0, 1, 3, 4, 5]
    assert "left out 1 events without any sensor time" in caplog.text
    with PhotonStream(path, Normalization(), batch_size=6, targets=("energy",)) as stream:
        assert stream.num_events == 6
