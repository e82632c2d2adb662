"""Many independent shards on one machine, a batch system, or any running Dask cluster.

A shard is a function of its index alone (seed it with `hep_shared.seed.shard_seed`) that writes its own file
atomically. The results are therefore the same whichever engine ran, and a farm that was interrupted makes
only what is missing.

What Slurm or HTCondor workers may ask for (memory, queue, walltime) is a property of the site: it is read
from Dask's own `~/.config/dask/jobqueue.yaml`.
"""

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hep_shared.errors import UserError
from hep_shared.signals import EXIT_CHECKPOINTED, stop_flag

if TYPE_CHECKING:
    from distributed import Client

_JOB_CLUSTERS = {"slurm": "SLURMCluster", "htcondor": "HTCondorCluster"}
# Used where the site's jobqueue.yaml says nothing.
_JOB_DEFAULTS = {"cores": 1, "processes": 1, "memory": "4GB", "disk": "4GB"}


def run_shards(
    fn: Callable[[int], object],
    num_shards: int,
    *,
    cluster: str = "local",
    num_workers: int = 1,
    done: Callable[[int], bool],
    retries: int = 3,
    progress: str | None = "shards",
) -> list[int]:
    """Call a function for each shard that is not done.

    A shard that raises a UserError ends the farm at once, since the others would fail alike. Any other
    failure is tried again, and the remaining shards are still made before it is reported.

    Args:
        fn: Top-level function of the shard's index; bind other arguments with `functools.partial`. It
            travels with every shard, so what is bound should not grow with their number.
        num_shards: Number of shards; the indices are 0 to num_shards - 1.
        cluster: `local`, `slurm`, `htcondor`, or a running one as `tcp://host:port` or `file:scheduler.json`.
        num_workers: Processes or batch jobs to start; a running cluster brings its own, which must
            have the same packages installed. `local` with one worker runs in this process.
        done: Whether a shard's result is there and whole.
        retries: Further attempts after a failure that is not a UserError, a lost worker included.
        progress: Label of the progress bar on stderr, or None for no bar.

    Returns:
        The indices of the shards made, in order; those done before are left out.

    Raises:
        UserError: If a shard failed, naming it, or the cluster is unknown, unreachable or not installed.
        SystemExit: With code 85 after a stop signal, once the shard that was next to finish is complete.
    """
    missing = [index for index in range(num_shards) if not done(index)]
    if not missing:
        return []
    with ExitStack() as stack:
        if cluster == "local" and num_workers <= 1:
            outcomes = _run_here(fn, missing, retries)
        else:
            client = stack.enter_context(_connect(cluster, min(num_workers, len(missing))))
            outcomes = _run_on(client, fn, missing, retries)
        stack.callback(outcomes.close)  # cancels what waits while the client still lives
        advance = stack.enter_context(_progress_bar(progress, len(missing)))
        failed: dict[int, str] = {}
        for index, failure in outcomes:
            if failure is not None:
                failed[index] = failure
            advance()
            if stop_flag().requested:
                raise SystemExit(EXIT_CHECKPOINTED)
    if failed:
        first = min(failed)
        raise UserError(
            f"{len(failed)} of {len(missing)} shards failed, the first is shard {first} ({failed[first]}); "
            "mend the cause and run the same command again, which makes only the missing shards."
        )
    return missing


def _attempt(fn: Callable[[int], object], index: int) -> str | None:
    """Run one shard in a worker; a UserError travels as its sentence, so that Dask does not try again."""
    try:
        fn(index)
    except UserError as error:
        return str(error)
    return None


def _attempt_pickled(fn: bytes, index: int) -> str | None:
    """Run one shard of a function unpickled inside the task: a worker dies of a task it cannot unpickle."""
    cloudpickle: Any = importlib.import_module("cloudpickle")
    return _attempt(cloudpickle.loads(fn), index)


def _stop_at(index: int, sentence: str) -> UserError:
    return UserError(f"Shard {index}: {sentence}")


def _run_here(
    fn: Callable[[int], object], indices: list[int], retries: int
) -> Generator[tuple[int, str | None], None, None]:
    for index in indices:
        failure = None
        for _ in range(retries + 1):
            try:
                sentence = _attempt(fn, index)
            except Exception as error:
                failure = _describe(error)
                continue
            if sentence is not None:
                raise _stop_at(index, sentence)
            failure = None
            break
        yield index, failure


def _run_on(
    client: "Client", fn: Callable[[int], object], indices: list[int], retries: int
) -> Generator[tuple[int, str | None], None, None]:
    distributed: Any = importlib.import_module("distributed")
    cloudpickle: Any = importlib.import_module("cloudpickle")
    # pure=False: equal arguments must not mean a cached result, since the shard's file may have been removed.
    attempt = functools.partial(_attempt_pickled, cloudpickle.dumps(fn))
    futures = client.map(attempt, indices, retries=retries, pure=False)
    waiting = dict(zip(futures, indices, strict=True))
    completed = distributed.as_completed(futures, loop=client.loop)
    del futures
    try:
        for future in completed:
            index, error = waiting.pop(future), future.exception()
            if error is None and (sentence := future.result()) is not None:
                raise _stop_at(index, sentence)
            future.release()  # or its worker keeps the task, the function included, to the end
            yield index, None if error is None else _describe(error)
    finally:
        client.cancel(list(waiting))  # type: ignore[no-untyped-call]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(".")


@contextmanager
def _connect(cluster: str, num_workers: int) -> Iterator["Client"]:
    distributed: Any = importlib.import_module("distributed")
    with ExitStack() as stack:
        if cluster == "local":
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # any free port, reachable from this machine only
                    silence_logs=logging.CRITICAL,
                    env={"OMP_NUM_THREADS": "1"},
                )
            )
        elif cluster in _JOB_CLUSTERS:
            address = stack.enter_context(_job_cluster(cluster))
            address.scale(jobs=num_workers)
        elif cluster.startswith("tcp://"):
            address = cluster
        elif cluster.startswith("file:"):
            address = None
            if not Path(cluster.removeprefix("file:")).exists():  # Dask would wait for it for ever
                raise UserError(
                    f"--cluster {cluster} names no file; start the scheduler with that file first."
                )
        else:
            raise UserError(
                f"--cluster is '{cluster}'; "
                "choose local, slurm, htcondor, tcp://host:port or file:scheduler.json."
            )
        try:
            options = {"scheduler_file": cluster.removeprefix("file:")} if address is None else {}
            client = distributed.Client(address, timeout="30s", set_as_default=False, **options)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--cluster {cluster} does not answer ({_describe(error)}); "
                "check that its scheduler is running."
            ) from error
        yield stack.enter_context(client)


def _job_cluster(kind: str) -> Any:
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise UserError(
            f"--cluster {kind} needs dask-jobqueue; install it with `pip install 'hep-shared[cluster]'`."
        ) from error
    import dask

    site = dask.config.get(f"jobqueue.{kind}", {})
    names = _JOB_DEFAULTS if kind == "htcondor" else _JOB_DEFAULTS.keys() - {"disk"}
    # jobqueue starts its workers with OMP_NUM_THREADS=1 (distributed.nanny.pre-spawn-environ).
    return getattr(jobqueue, _JOB_CLUSTERS[kind])(
        **{name: _JOB_DEFAULTS[name] for name in names if site.get(name) is None}
    )


@contextmanager
def _progress_bar(label: str | None, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=label is None or not console.is_terminal) as bar:
        task = bar.add_task(label or "", total=total)
        yield lambda: bar.advance(task)
