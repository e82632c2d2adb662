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
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", help="mlflow or tensorboard, besides the run directory; repeatable."),
]
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
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network, evaluate it and export it; without data files some are simulated."""
    _train(None, preset, config, set_, out, resume, device, track, as_json)


@app.command()
def pretrain(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/pretrain"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pre-train the encoder as a masked autoencoder; needs no truth."""
    _train("pretrain", preset, config, set_, out, resume, device, track, as_json)


@app.command()
def inpaint(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/inpaint"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an inpainter, which fills in dead channels, and evaluate it."""
    _train("inpaint", preset, config, set_, out, resume, device, track, as_json)


def _train(
    kind: str | None,
    preset: str | None,
    config: Path | None,
    set_: list[str] | None,
    out: Path,
    resume: bool,
    device: str,
    track: list[str] | None,
    as_json: bool,
) -> None:
    """Train with the task of a verb, or with that of the configuration."""
    from hep_shared.config import load_config
    from megii_xec.config import PRESETS, Config
    from megii_xec.train import train as work

    overrides = [*(set_ or [])]
    overrides += [f"task.kind={kind}"] if kind else []
    overrides += [f"train.track=[{', '.join(track)}]"] if track else []
    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=overrides)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def evaluate(
    run: RunOption,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", help="Other files with truth; --split names the result."),
    ] = None,
    mc_dropout: Annotated[
        int,
        typer.Option("--mc-dropout", min=0, help="Passes with dropout on, for uncertainties."),
    ] = 0,
    ensemble: Annotated[
        list[Path] | None, typer.Option("--ensemble", help="Further run of an ensemble; repeatable.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Draw figures and the page of events.")] = True,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare a run with the conventional reconstruction and draw its pictures."""
    from megii_xec.evaluate import brief
    from megii_xec.evaluate import evaluate as work

    result = work(
        run, split=split, device=device, checkpoint=checkpoint, inputs=input_ or (), mc_passes=mc_dropout,
        members=ensemble or (), pictures=pictures,
    )  # fmt: skip
    print_result(result if as_json else brief(run, result), as_json)


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


@app.command("validate-real")
def validate_real(
    onnx: Annotated[Path, typer.Option("--onnx", help="Exported model.")],
    input_: Annotated[list[str], typer.Option("--input", help="ROOT file or glob of data; repeatable.")],
    output: Annotated[Path, typer.Option("--output", help="ROOT file to write.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Training whose normalisation the model must have.")
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Events at a time.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct recorded events with an exported model, beside the conventional values."""
    from megii_xec.validate_real import validate_real as work

    print_result(work(onnx, input_, output, run=run, device=device, batch_size=batch_size), as_json)


@app.command("check-file")
def check_file(path: Annotated[Path, typer.Argument(help="ROOT file.")], as_json: JsonOption = False) -> None:
    """Read a photon file once and say what is in it: units, gaps, dead channels."""
    from megii_xec.data.summary import summarize_file

    print_result(summarize_file(path), as_json)


@app.command()
def show(
    input_: Annotated[Path, typer.Option("--input", help="ROOT file.")],
    out: Annotated[Path, typer.Option("--out", help="Picture (.png, .pdf) or page (.html).")],
    entry: Annotated[list[int] | None, typer.Option("--entry", help="Entry, from 0; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw events of a ROOT file: faces unrolled, or a page in three dimensions."""
    from megii_xec.show import show as work

    print_result(work(input_, entry or [0], out), as_json)


@app.command()
def cache(
    input_: Annotated[list[str], typer.Option("--input", help="ROOT file or glob; repeatable.")],
    out: OutOption,
    as_json: JsonOption = False,
) -> None:
    """Copy slow ROOT files into the form that is read fastest."""
    from megii_xec.cache import cache as work

    print_result(work(input_, out), as_json)


@app.command()
def scan(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML file of the scan.")],
    out: OutOption,
    cluster: ClusterOption = "local",
    num_workers: NumWorkersOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Run many trainings from one YAML file; the same command again goes on."""
    from megii_xec.scan import run_scan

    print_result(run_scan(config, out, cluster=cluster, num_workers=num_workers, device=device), as_json)


@app.command("mlflow-sync")
def mlflow_sync(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    database: Annotated[Path, typer.Option("--db", help="SQLite file.")] = Path("mlflow.db"),
    as_json: JsonOption = False,
) -> None:
    """Copy the histories of runs into one MLflow database."""
    from megii_xec.mlflow_sync import mlflow_sync as work

    print_result(work(runs, database), as_json)


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
