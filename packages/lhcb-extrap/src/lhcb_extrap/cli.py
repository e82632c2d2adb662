"""The command line `lhcb-extrap`: verbs only; everything heavy is imported inside the verb that needs it."""

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
    help="Extrapolate charged tracks through a dipole magnet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last or a file name of the run.")]
SplitOption = Annotated[str, typer.Option("--split", help="train, validation or test.")]
RunsArgument = Annotated[list[Path], typer.Argument(help="Run directories, or directories of runs.")]


@app.callback()
def main_options(debug: DebugOption = False) -> None:
    """Extrapolate charged tracks through a dipole magnet."""


@app.command()
def simulate(
    out: OutOption,
    num_events: NumEventsOption = 10_000,
    seed: SeedOption = 1,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    study: Annotated[str | None, typer.Option(help="low_p, mid_p, high_p or full_range.")] = None,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    tracks_per_file: Annotated[int, typer.Option(min=1, help="Tracks in each file of a directory.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Simulate tracks into one npz file, or a directory of files."""
    from hep_shared.config import load_config
    from lhcb_extrap.config import PRESETS, Config
    from lhcb_extrap.run_all import study_setting
    from lhcb_extrap.simulate import simulate as work

    settings = [*study_setting(study), *(set_ or [])]
    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=settings)
    result = work(
        chosen.simulation, chosen.field, out, num_tracks=num_events, seed=seed, num_workers=num_workers,
        cluster=cluster, tracks_per_file=tracks_per_file,
    )  # fmt: skip
    print_result(result, as_json)


app.command("generate", help="The same as simulate.")(simulate)


@app.command()
def merge(
    input_: Annotated[list[str], typer.Option("--input", help="Shard, glob or directory; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="npz file to write.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check sums and every number first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put the shards of a simulation into one file."""
    from lhcb_extrap.simulate import merge as work

    print_result(work(input_, out, verify=verify), as_json)


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/lhcb-extrap"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network, evaluate it and export it; without data files some tracks are simulated."""
    from hep_shared.config import load_config
    from lhcb_extrap.config import PRESETS, Config
    from lhcb_extrap.train import train as work

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command("run-all")
def run_all(
    out: OutOption,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="base, ablation, momentum or kick; repeatable.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train the whole study; run it again to go on with what is missing."""
    from lhcb_extrap.run_all import run_all as work

    result = work(
        out, groups=group or (), file=config, overrides=set_ or (), num_workers=num_workers, cluster=cluster,
        device=device, command=shlex.join(sys.argv),
    )  # fmt: skip
    print_result(result, as_json)


@app.command()
def evaluate(
    run: RunOption,
    split: SplitOption = "test",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure the errors of a run and draw its pictures."""
    from lhcb_extrap.evaluate import evaluate as work

    result = work(run, split=split, device=device, checkpoint=checkpoint)
    if not as_json:
        result = {key: value for key, value in result.items() if not key.startswith("profile_")}
    print_result(result, as_json)


@app.command("evaluate-all")
def evaluate_all(
    directory: Annotated[Path, typer.Argument(help="Directory of runs.")],
    split: SplitOption = "test",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the table.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate every run of a directory."""
    from lhcb_extrap.evaluate import evaluate_all as work
    from lhcb_extrap.evaluate import print_evaluations

    result = work(directory, split=split, device=device, out=out)
    if as_json:
        print_result(result, as_json)
    else:
        print_evaluations(result)


@app.command()
def predict(
    input_: Annotated[Path, typer.Option("--input", help="npz file with X.")],
    output: Annotated[Path, typer.Option("--output", help="npz file to write.")],
    run: Annotated[Path | None, typer.Option("--run", help="Run directory of a training.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Exported model instead of a run.")] = None,
    on_error: Annotated[str, typer.Option("--on-error", help="stop, or mark rows with NaN.")] = "stop",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Extrapolate every track of a file into another one."""
    from lhcb_extrap.predict import choose_model
    from lhcb_extrap.predict import predict as work

    model = choose_model(run, onnx)
    print_result(
        work(model, input_, output, device=device, checkpoint=checkpoint, on_error=on_error),  # type: ignore[arg-type]
        as_json,
    )


@app.command()
def export(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", help="File to write: .onnx, or .hpp for a kick net.")],
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX file or a C++ header that takes and gives physical units."""
    from lhcb_extrap.export import export as work

    print_result(work(run, out, checkpoint=checkpoint), as_json)


@app.command()
def jacobian(
    run: RunOption,
    num_tracks: Annotated[int, typer.Option("--num-tracks", min=1, help="Tracks to compare.")] = 200,
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
) -> None:
    """Compare the transport matrix of a network with that of Runge-Kutta."""
    from lhcb_extrap.jacobian import jacobian as work

    print_result(work(run, num_tracks=num_tracks, checkpoint=checkpoint), as_json)


@app.command()
def bench(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure simulation and inference of every network on this machine."""
    from hep_shared.bench import print_rows
    from hep_shared.config import load_config
    from lhcb_extrap.bench import bench as work
    from lhcb_extrap.config import PRESETS, Config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    print_rows(work(chosen, preset=preset, device=device), as_json)


@app.command("compare-with-cpp")
def compare_with_cpp(
    runs: RunsArgument,
    num_tracks: Annotated[int, typer.Option("--num-tracks", min=10, help="Tracks to move.")] = 2000,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tracks a second at a stated error: classical methods and networks in one table, one thread."""
    from lhcb_extrap.compare import compare, print_table

    result = compare(runs, num_tracks=num_tracks, out=out)
    print_table(result, as_json)


@app.command()
def report(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    comparison: Annotated[
        Path | None, typer.Option("--comparison", help="JSON file of compare-with-cpp --out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side and answer the questions of the study in one self-contained HTML page."""
    from lhcb_extrap.report import report as work

    print_result(work(runs, out, comparison=comparison), as_json)


def main() -> None:
    """Run the program."""
    run_cli(app, "lhcb_extrap")


if __name__ == "__main__":
    main()
