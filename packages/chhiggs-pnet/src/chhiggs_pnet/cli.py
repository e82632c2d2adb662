"""The command line `chhiggs-pnet`: verbs only; everything heavy is imported inside the verb that needs it."""

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
    help="One mass-parametric network for charged-Higgs searches, H+ -> W A, A -> mu mu.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last or a file name of the run.")]
RunsOption = Annotated[list[Path], typer.Option("--run", help="Run directory; repeat it for an ensemble.")]
PointsOption = Annotated[
    str | None, typer.Option("--points", help="Mass points 'mHc,mA;mHc,mA' in GeV; all by default.")
]
BranchMapOption = Annotated[str, typer.Option("--branch-map", help="flat, nanoaod or a TOML file.")]
RangeOption = Annotated[str, typer.Option(metavar="FIRST,LAST,STEP", help="Grid in GeV.")]


@app.callback()
def main_options(debug: DebugOption = False) -> None:
    """One mass-parametric network for charged-Higgs searches, H+ -> W A, A -> mu mu."""


@app.command()
def simulate(
    out: OutOption,
    num_events: Annotated[
        int | None, typer.Option("--num-events", min=1, help="Selected events of each sample.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random number.")] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    points: PointsOption = None,
    processes: Annotated[
        str | None, typer.Option(help="Of signal, nonprompt, diboson, ttX; all by default.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="fast, or pythia, which needs the extra of that name.")
    ] = "fast",
    layout: Annotated[str, typer.Option(help="Names of the branches: flat or nanoaod.")] = "flat",
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    as_json: JsonOption = False,
) -> None:
    """Simulate signal and backgrounds into ROOT files, one sample a process, channel and mass point."""
    from chhiggs_pnet.config import PRESETS, Config
    from chhiggs_pnet.simulate import simulate_samples as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    files = work(
        chosen, out, points=points, processes=processes, num_events=num_events, seed=seed, engine=engine,
        layout=layout, num_workers=num_workers, cluster=cluster,
    )  # fmt: skip
    print_result({"out": out, "num_files": len(files)}, as_json)


@app.command()
def validate(
    out: OutOption = Path("validation"),
    num_events: NumEventsOption = 1000,
    seed: SeedOption = 1,
    channel: Annotated[str, typer.Option(help="Channel of the events.")] = "Run1E2Mu",
    points: Annotated[str | None, typer.Option("--points", help="Mass points; three by default.")] = None,
    processes: Annotated[
        str, typer.Option(help="Of signal, diboson, ttX and nonprompt, which takes long.")
    ] = "signal,diboson,ttX",
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the fast generator with Pythia: Kolmogorov-Smirnov tests and a picture of every observable."""
    from chhiggs_pnet.config import PRESETS, Config
    from chhiggs_pnet.physics.mass_points import parse_points
    from chhiggs_pnet.validate import headline
    from chhiggs_pnet.validate import validate as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(
        chosen, out, num_events=num_events, seed=seed, channel=channel, points=parse_points(points),
        processes=[name.strip() for name in processes.split(",")],
    )  # fmt: skip
    print_result(headline(result), as_json)


@app.command()
def prepare(
    samples: Annotated[
        Path, typer.Option("--samples", help="Directory of a simulation, or list of samples.")
    ],
    out: OutOption,
    branch_map: BranchMapOption = "flat",
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn ROOT files into the memory-mapped store that the other verbs read."""
    from chhiggs_pnet.config import PRESETS, Config
    from chhiggs_pnet.data.branch_map import load_branch_map
    from chhiggs_pnet.prepare import prepare as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    parts = work(
        samples, out, branch_map=load_branch_map(branch_map), table=chosen.masses, selection=chosen.selection
    )
    print_result({"out": out, "num_events": {part.name: part.num_selected for part in parts}}, as_json)


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/chhiggs-pnet"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network in its stages, evaluate it and export it; without a store samples are simulated."""
    from chhiggs_pnet.config import PRESETS, Config
    from chhiggs_pnet.train import train as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def evaluate(
    run: RunsOption,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    mc_dropout: Annotated[int, typer.Option(min=0, help="Passes with dropout on; 0 for none.")] = 0,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure discrimination, calibration and mass dependence at every mass point; draw the pictures."""
    from chhiggs_pnet.evaluate import evaluate as work
    from chhiggs_pnet.evaluate import headline

    result = work(run, split=split, device=device, checkpoint=checkpoint, mc_dropout=mc_dropout)
    print_result(result if as_json else headline(result), as_json)


@app.command()
def heatmap(
    run: RunsOption,
    mhc: RangeOption = "100,165,5",
    ma: RangeOption = "80,100,4",
    num_events: NumEventsOption = 500,
    truth: Annotated[str | None, typer.Option(help="True masses 'mHc,mA' of the second map.")] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw the mass plane with a signal simulated at each cell, and under wrong hypotheses."""
    from chhiggs_pnet.heatmap import grid
    from chhiggs_pnet.heatmap import heatmap as work
    from chhiggs_pnet.physics.mass_points import MassPoint

    result = work(
        run, mHc=grid("--mhc", mhc), mA=grid("--ma", ma), num_events=num_events, device=device,
        truth=None if truth is None else MassPoint.parse(truth), checkpoint=checkpoint,
    )  # fmt: skip
    print_result(result, as_json)


@app.command()
def compare(
    run: RunsOption,
    out: OutOption = Path("runs/compare"),
    against: Annotated[str, typer.Option(help="dedicated, nearest, bdt, bdt_blind or a run.")] = "dedicated",
    points: PointsOption = None,
    budget: Annotated[
        str,
        typer.Option(
            help="Steps of each dedicated network. updates: as many as the parametric one makes. events: so "
            "many that it sees its own mass as often as the parametric one does; then the dedicated ones of "
            "all training points together make as many steps as the parametric one."
        ),
    ] = "updates",
    num_resamples: Annotated[int, typer.Option(min=10, help="Bootstrap resamples.")] = 200,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Test non-inferiority to networks of one mass point, or to other classifiers, on the same events."""
    from chhiggs_pnet.compare import compare as work
    from chhiggs_pnet.compare import headline
    from chhiggs_pnet.physics.mass_points import parse_points

    result = work(
        run, out=out, against=against, points=parse_points(points), budget=budget, device=device,
        num_resamples=num_resamples,
    )  # fmt: skip
    print_result(headline(result), as_json)


@app.command()
def predict(
    input_: Annotated[list[str], typer.Option("--input", help="ROOT file or glob; repeatable.")],
    output: Annotated[Path, typer.Option("--output", help="ROOT file to write.")],
    points: PointsOption = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run directory of a training.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Exported model instead of a run.")] = None,
    branch_map: BranchMapOption = "flat",
    channel: Annotated[str, typer.Option(help="Channel of the events.")] = "Run1E2Mu",
    era: Annotated[str, typer.Option(help="Era of the events.")] = "2018",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Events at a time.")] = 2048,
    as_json: JsonOption = False,
) -> None:
    """Classify every event of ROOT files under each hypothesis, into a ROOT file."""
    from chhiggs_pnet.data.branch_map import load_branch_map
    from chhiggs_pnet.physics.mass_points import parse_points
    from chhiggs_pnet.predict import choose_model
    from chhiggs_pnet.predict import predict as work

    model = choose_model(run, onnx)
    result = work(
        model, input_, output, points=parse_points(points), branch_map=load_branch_map(branch_map),
        channel=channel, era=era, device=device, checkpoint=checkpoint, batch_size=batch_size,
    )  # fmt: skip
    print_result(result, as_json)


@app.command()
def export(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", help="ONNX file to write.")],
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX file that takes raw nodes and a hypothesis and gives class probabilities."""
    from chhiggs_pnet.export import export as work

    print_result(work(run, out, checkpoint=checkpoint), as_json)


@app.command()
def tune(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/tune"),
    num_trials: Annotated[int, typer.Option(min=1, help="Finished trials to reach.")] = 64,
    population: Annotated[int, typer.Option(min=2, help="Individuals of a generation.")] = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Search hyperparameters with a genetic algorithm; run it again to go on."""
    from chhiggs_pnet.config import PRESETS, Config
    from chhiggs_pnet.tune import tune as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out, num_trials=num_trials, population=population, seed=seed, device=device)
    print_result(result, as_json)


@app.command()
def bench(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    num_events: NumEventsOption = 1024,
    as_json: JsonOption = False,
) -> None:
    """Measure simulation, loading, training and inference on this machine, beside PyTorch Geometric."""
    from chhiggs_pnet.bench import bench as work
    from chhiggs_pnet.config import PRESETS, Config
    from hep_shared.bench import print_rows
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    print_rows(work(chosen, device=device, num_events=num_events), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    comparison: Annotated[
        list[Path] | None, typer.Option("--comparison", help="A compare_*.json; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put runs and comparisons side by side in one self-contained HTML page."""
    from chhiggs_pnet.report import report as work

    print_result(work(runs, out, comparisons=comparison or []), as_json)


def main() -> None:
    """Run the program."""
    run_cli(app, "chhiggs_pnet")


if __name__ == "__main__":
    main()
