"""Trackers that follow a run and can never stop it.

The run directory is the truth; a tracker gets a copy of each record. Whatever goes wrong with one, a missing
package included, costs one warning and that tracker.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hep_shared.errors import ConfigError

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What a tracker must do."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record; ``step`` is its abscissa."""

    def close(self) -> None:
        """Flush and let go."""


class TensorBoardSink:
    """Event files in ``<run>/tensorboard``.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(path / "tensorboard"))

    def log(self, record: Mapping[str, Any]) -> None:
        """Write every number of the record."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record.get("step"))

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class MLflowSink:
    """A run in MLflow: at ``MLFLOW_TRACKING_URI``, or in ``<run>/mlflow.db``.

    One database a run, because runs that start at the same time fail to migrate a fresh common one.

    Args:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path.resolve() / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._run: str = self._client.create_run("0", run_name=path.name).info.run_id

    def log(self, record: Mapping[str, Any]) -> None:
        """Write every number of the record."""
        for name, value in _numbers(record).items():
            self._client.log_metric(self._run, name, value, step=record.get("step"))

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run)


SINKS: dict[str, Callable[[Path], Sink]] = {"tensorboard": TensorBoardSink, "mlflow": MLflowSink}


class SinkGroup:
    """Several trackers; one that fails is dropped with a warning.

    Args:
        sinks: The trackers by name.
    """

    def __init__(self, sinks: dict[str, Sink]) -> None:
        self._sinks = sinks

    def log(self, record: Mapping[str, Any]) -> None:
        """Hand a record to every tracker.

        Args:
            record: Names and values.
        """
        self._each(lambda sink: sink.log(record))

    def close(self) -> None:
        """Close and forget every tracker."""
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _each(self, action: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                action(sink)
            except Exception as error:
                logger.warning("tracker %s is dropped, the run goes on: %s", name, error)
                del self._sinks[name]


def open_sinks(names: Sequence[str], path: Path) -> SinkGroup:
    """Open trackers for a run.

    Args:
        names: Keys of `SINKS`.
        path: The run directory.

    Returns:
        Those that could be opened.

    Raises:
        ConfigError: A name is unknown.
    """
    sinks: dict[str, Sink] = {}
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"there is no tracker '{name}'; the trackers are {', '.join(SINKS)}.")
        try:
            sinks[name] = SINKS[name](path)
        except Exception as error:
            logger.warning("tracker %s cannot start, the run goes on: %s", name, error)
    return SinkGroup(sinks)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {k: float(v) for k, v in record.items() if k != "step" and isinstance(v, (int, float))}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
