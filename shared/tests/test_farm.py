import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from hep_shared import farm
from hep_shared.errors import InputFileError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_bytes
from hep_shared.seed import shard_seed
from hep_shared.signals import EXIT_CHECKPOINTED, StopFlag

# The workers cannot import a test file by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_SHARDS = 5


def shard_path(directory: Path, index: int) -> Path:
    return directory / f"shard-{index}.npy"


def is_done(directory: Path, index: int) -> bool:
    return shard_path(directory, index).exists()


def make_shard(directory: Path, index: int) -> None:
    events = np.random.default_rng(shard_seed(7, index)).normal(size=100)
    atomic_write_bytes(shard_path(directory, index), events.tobytes())


def make_or_fail(directory: Path, index: int) -> None:
    """Fail always on shard 1, and once on shard 3."""
    mark = directory / f"tried-{index}"
    if index == 1 or (index == 3 and not mark.exists()):
        mark.touch()
        raise ZeroDivisionError("no photons")
    make_shard(directory, index)


def refuse(index: int) -> None:
    raise InputFileError("geometry.root", f"lacks sensor {index}", "make it again")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("shard-*")}


def run(directory: Path, **options) -> list[int]:
    directory.mkdir(exist_ok=True)
    fn = options.pop("fn", make_shard)
    return run_shards(partial(fn, directory), NUM_SHARDS, done=partial(is_done, directory), **options)


@pytest.fixture(scope="module")
def in_process(tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of the shards."""
    directory = tmp_path_factory.mktemp("one")
    assert run(directory) == list(range(NUM_SHARDS))
    return contents(directory)


def test_only_missing_shards_are_made(tmp_path, in_process) -> None:
    run(tmp_path)
    shard_path(tmp_path, 2).unlink()
    assert run(tmp_path) == [2]
    assert run(tmp_path) == []
    assert contents(tmp_path) == in_process


def test_failures_are_retried_and_named(tmp_path, in_process) -> None:
    with pytest.raises(
        UserError, match=r"1 of 5 shards failed, the first is shard 1 \(ZeroDivisionError: no photons\)"
    ):
        run(tmp_path, fn=make_or_fail, retries=1)
    assert contents(tmp_path) == {name: data for name, data in in_process.items() if name != "shard-1.npy"}
    assert run(tmp_path) == [1]


def test_a_user_error_ends_the_farm_at_once(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^Shard 0: geometry.root: lacks sensor 0; make it again\.$"):
        run_shards(refuse, 5, done=lambda index: False)


def test_a_stop_signal_leaves_after_a_whole_shard(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(farm, "stop_flag", lambda: StopFlag(requested=True, signal_name="SIGTERM"))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path)
    assert stop.value.code == EXIT_CHECKPOINTED
    assert contents(tmp_path).keys() == {"shard-0.npy"}


def test_local_workers(tmp_path, in_process) -> None:
    with pytest.raises(UserError, match="shard 1"):
        run(tmp_path, fn=make_or_fail, retries=1, num_workers=2)
    assert run(tmp_path, num_workers=2) == [1]
    assert contents(tmp_path) == in_process


def test_running_cluster_by_scheduler_file(tmp_path, in_process) -> None:
    scheduler_file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(scheduler_file), "--no-dashboard", "--host", "127.0.0.1"]
    commands = (
        ["distributed.cli.dask_scheduler", *common, "--port", "0"],
        ["distributed.cli.dask_worker", *common, "--nthreads", "1", "--no-nanny"],
    )
    started = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stderr=subprocess.DEVNULL)
            )
            while not scheduler_file.exists():
                assert started[0].poll() is None
                time.sleep(0.1)
        assert run(tmp_path / "shards", cluster=f"file:{scheduler_file}") == list(range(NUM_SHARDS))
        with pytest.raises(UserError, match=r"Shard \d: geometry.root: lacks sensor"):
            run_shards(refuse, 5, done=lambda index: False, cluster=f"file:{scheduler_file}")
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
    assert contents(tmp_path / "shards") == in_process


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("sge", "--cluster is 'sge'; choose local, slurm"),
        ("file:absent.json", "file:absent.json names no file"),
    ],
)
def test_unusable_clusters(cluster: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_shards(refuse, 2, done=lambda index: False, cluster=cluster)


def test_missing_extra_names_the_install_command(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(UserError, match=r"pip install 'hep-shared\[cluster\]'"):
        run_shards(refuse, 2, done=lambda index: False, cluster="slurm")


def test_import_leaves_torch_and_dask_alone() -> None:
    code = "import sys, hep_shared.farm; print({'torch', 'distributed', 'dask'} & sys.modules.keys())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert process.stdout == "set()\n"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_few_workers_means_this_process(num_workers):
    made = []
    run_shards(made.append, 3, num_workers=num_workers, done=lambda index: index in made, progress=None)
    assert made == [0, 1, 2]
