"""The command line `xec`: verbs only; everything heavy is imported inside the verb that needs it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hep_shared.cli import (
    ClusterOption,
    ConfigOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    NumEventsOption,
    NumWorkersOption,
    OutOption,
    PresetOption,
    ResumeOption,
    RunOption,
    SeedOption,
    SetOption,
    print_result,
    run_cli,
)

app = typer.Typer(
    help="Reconstruct photons in the MEG II liquid-xenon detector.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last or a file name of the run.")]


@app.callback()
def main_options(debug: DebugOption = False) -> None:
    """Reconstruct photons in the MEG II liquid-xenon detector."""


@app.command()
def simulate(
    out: OutOption,
    num_events: NumEventsOption = 2000,
    seed: SeedOption = 1,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    events_per_file: Annotated[int, typer.Option(help="Events in each file of a directory.")] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Simulate photons into one ROOT file, or a directory of files."""
    from hep_shared.config import load_config
    from megii_xec.config import PRESETS, Config
    from megii_xec.simulate import simulate as work

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    files = work(
        chosen.simulation, out, num_events=num_events, seed=seed, num_workers=num_workers, cluster=cluster,
        events_per_file=events_per_file,
    )  # fmt: skip
    print_result({"out": out, "num_files": len(files), "num_events": num_events}, as_json)


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/xec"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network, evaluate it and export it; without data files some are simulated."""
    from hep_shared.config import load_config
    from megii_xec.config import PRESETS, Config
    from megii_xec.train import train as work

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def evaluate(
    run: RunOption,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare a run with the conventional reconstruction and draw its pictures."""
    from megii_xec.evaluate import evaluate as work

    print_result(work(run, split=split, device=device, checkpoint=checkpoint), as_json)


@app.command()
def predict(
    input_: Annotated[list[str], typer.Option("--input", help="ROOT file or glob; repeatable.")],
    output: Annotated[Path, typer.Option("--output", help="ROOT file to write.")],
    run: Annotated[Path | None, typer.Option("--run", help="Run directory of a training.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Exported model instead of a run.")] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Events at a time.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct every event of ROOT files, real or simulated, into a ROOT file."""
    from megii_xec.predict import choose_model
    from megii_xec.predict import predict as work

    model = choose_model(run, onnx)
    print_result(
        work(model, input_, output, device=device, checkpoint=checkpoint, batch_size=batch_size), as_json
    )


@app.command()
def export(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", help="ONNX file to write.")],
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX file that takes raw sensors and gives physical quantities."""
    from megii_xec.export import export as work

    print_result(work(run, out, checkpoint=checkpoint), as_json)


@app.command()
def bench(
    preset: PresetOption = "small",
    config: ConfigOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    num_events: NumEventsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure simulation, reading, training and reconstruction on this machine."""
    from hep_shared.bench import print_rows
    from hep_shared.config import load_config
    from megii_xec.bench import bench as work
    from megii_xec.config import PRESETS, Config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    print_rows(work(chosen, device=device, num_events=num_events), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side in one self-contained HTML page."""
    from megii_xec.report import report as work

    print_result(work(runs, out), as_json)


def main() -> None:
    """Run the program."""
    run_cli(app, "megii_xec")


if __name__ == "__main__":
    main()
