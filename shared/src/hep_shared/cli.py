"""Options that mean the same in every program, and what happens when a program ends.

===========================  =========  ==========================================================
ended by                     exit code  on stderr
===========================  =========  ==========================================================
success                      0
a defect of the program      1          the traceback
a UserError, bad usage       2          one sentence; the traceback too with ``--debug``
Ctrl-C                       130
StopTraining                 85         where the checkpoint is: "checkpointed, run me again"
===========================  =========  ==========================================================

torchrun leaves with 1 when its workers leave with 85; a batch wrapper then looks for the file CHECKPOINTED
that `hep_shared.run.RunDir.stop` puts into the run directory.

Results go to stdout, logs and progress to stderr. Nothing here imports torch, so ``--help`` is quick.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hep_shared.errors import UserError
from hep_shared.files import json_ready
from hep_shared.signals import EXIT_CHECKPOINTED, StopTraining, install_stop_handlers

if TYPE_CHECKING:
    from rich.console import Console

_FILE_WIDTH = 140  # characters of a table that goes to a file or a pipe
_DEBUG = "HEP_DEBUG"  # an environment variable, so that worker processes inherit it


def _enable_debug(value: bool) -> bool:
    if value:
        os.environ[_DEBUG] = "1"
    return value


PresetOption = Annotated[str | None, typer.Option("--preset", help="Named configuration to start from.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file laid over the preset.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one dotted key, e.g. train.lr=3e-4; repeatable."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write to.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; start it if there is none.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random number.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object a line.")]
RunOption = Annotated[Path, typer.Option("--run", help="Run directory of a training.")]
NumEventsOption = Annotated[int, typer.Option("--num-events", min=1, help="Number of events.")]
NumWorkersOption = Annotated[
    int, typer.Option("--num-workers", min=0, help="Worker processes; 0 works in the main process.")
]
ClusterOption = Annotated[
    str,
    typer.Option("--cluster", help="local, slurm, htcondor, tcp://HOST:PORT or file:SCHEDULER.json (Dask)."),
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_enable_debug, is_eager=True, help="Show the tracebacks of user errors."
    ),
]


def run_cli(app: typer.Typer, package: str, args: Sequence[str] | None = None) -> NoReturn:
    """Run a program and leave with the exit code of the table above.

    Call it before anything imports torch: the stop handlers are installed first.

    Args:
        app: The program.
        package: Its import package, whose log goes to the terminal; of other libraries only warnings do.
        args: Command line without the program's name; by default that of the process.

    Raises:
        SystemExit: Always.
    """
    install_stop_handlers()
    _log_to_stderr(package)
    try:
        app(args=args)
    except UserError as error:
        _fail(_last_line(str(error)), 2)
    except MemoryError:
        _fail("this machine has too little memory for the command; use a smaller batch or fewer workers.", 2)
    except StopTraining as stop:
        print(f"checkpointed: {stop.checkpoint}; run the command again with --resume.", file=sys.stderr)
        raise SystemExit(EXIT_CHECKPOINTED) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    raise SystemExit(0)


def print_result(obj: Mapping[str, Any], as_json: bool) -> None:
    """Print the result of a verb on stdout.

    Args:
        obj: Names and values; nested mappings become dotted names in the table.
        as_json: One line of strict JSON instead of a table.
    """
    if as_json:
        print(json.dumps(json_ready(obj), allow_nan=False), flush=True)
        return
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", overflow="fold")
    for name, value in _flatten(obj):
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    table_console().print(table, markup=False)


def table_console() -> "Console":
    """Console for tables on stdout: as wide as the terminal, and wide in a file or a pipe."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def _flatten(obj: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in obj.items():
        rows += (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
        )
    return rows


def _log_to_stderr(package: str) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    ours = {"hep_shared", package}
    handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="[%X]")
    # By name and not by logger level: some libraries set the levels of their loggers themselves.
    handler.addFilter(lambda r: r.levelno >= logging.WARNING or r.name.partition(".")[0] in ours)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)


def _fail(sentence: str, code: int) -> NoReturn:
    if os.environ.get(_DEBUG) == "1":
        traceback.print_exc()
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(code) from None


def _last_line(message: str) -> str:
    """The sentence of an error; a DataLoader worker's error arrives with its traceback in front."""
    if not message.startswith("Caught "):
        return " ".join(message.split())
    return message.strip().splitlines()[-1].partition(": ")[2]
