"""`xec mlflow-sync`: the histories and figures of runs, copied into one MLflow database by one writer.

Trainings never write to a common database: SQLite locks, and a lock must not stop a training. The run
directory is the truth; this program replays it whenever one wants to look. It can run again at any time and
adds only what is new. A lock file keeps a second writer away.
"""

import fcntl
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hep_shared.errors import UserError
from hep_shared.files import make_directory
from hep_shared.run import RunDir

EXPERIMENT = "megii-xec"
RUN_TAG, COUNT_TAG, FILES_TAG = "xec.run", "xec.records", "xec.files"
ARTIFACTS = ("evaluation_*.json", "figures/*.pdf")
MAX_PARAM_LENGTH = 500  # what every backend of MLflow stores


def mlflow_sync(runs: Sequence[Path], database: Path) -> dict[str, Any]:
    """Copy histories, and the evaluations and figures there are.

    Args:
        runs: Run directories.
        database: SQLite file; made if it is missing.

    Returns:
        The database, how many runs it got and how many records were added.

    Raises:
        UserError: MLflow is not installed, another writer is at work, or a run cannot be read.
    """
    directories = [RunDir.open(path) for path in runs]
    client = _client(database)
    with _single_writer(database):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            beside = database.resolve().with_name(f"{database.name}.artifacts").as_uri()
            number = client.create_experiment(EXPERIMENT, artifact_location=beside)
        else:
            number = experiment.experiment_id
        added = sum(_replay(client, number, directory) for directory in directories)
    return {"database": database, "num_runs": len(directories), "num_added": added}


def _client(database: Path) -> Any:
    try:
        tracking = importlib.import_module("mlflow.tracking")
    except ImportError as error:
        raise UserError("mlflow is not installed; install it with `pip install mlflow-skinny`.") from error
    make_directory(database.parent)
    return tracking.MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")


@contextmanager
def _single_writer(database: Path) -> Iterator[None]:
    lock = database.with_name(f"{database.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{database} is being written by another `xec mlflow-sync`; wait for it to end."
            ) from error
        yield


def _replay(client: Any, experiment: str, directory: RunDir) -> int:
    """Add what a run has logged since the last time; return how many records that is."""
    name = str(directory.path.resolve())
    found = client.search_runs([experiment], filter_string=f"tags.`{RUN_TAG}` = '{name}'")
    if found:
        identity, tags = found[0].info.run_id, found[0].data.tags
        done, copied = int(tags.get(COUNT_TAG, "0")), tags.get(FILES_TAG, "")
    else:
        created = client.create_run(experiment, run_name=directory.path.name, tags={RUN_TAG: name})
        identity, done, copied = created.info.run_id, 0, ""
        for key, value in flatten(directory.config):
            client.log_param(identity, key, str(value)[:MAX_PARAM_LENGTH])
    records = directory.history()
    for record in records[done:]:
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float) and math.isfinite(value):
                client.log_metric(identity, key, float(value), step=int(record.get("step", 0)))
    files = [file for pattern in ARTIFACTS for file in sorted(directory.path.glob(pattern))]
    newest = str(max((file.stat().st_mtime_ns for file in files), default=""))
    if newest != copied:
        for file in files:
            folder = file.parent.relative_to(directory.path).as_posix()
            client.log_artifact(identity, str(file), None if folder == "." else folder)
        client.set_tag(identity, FILES_TAG, newest)
    # A run that was resumed may have fewer records than were copied; the count follows it.
    client.set_tag(identity, COUNT_TAG, str(len(records)))
    if records and records[-1].get("epoch") == directory.config.get("train", {}).get("epochs"):
        client.set_terminated(identity)  # else the page shows it as running for ever
    return max(len(records) - done, 0)


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of a configuration."""
    items: list[tuple[str, Any]] = []
    for key, value in config.items():
        items += (
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
        )
    return items
