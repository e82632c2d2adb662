"""The command line `fourtop-tokens`: verbs only; what is heavy is imported inside the verb that needs it."""

import shlex
import sys
from enum import StrEnum
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
    help="Tokens for four-top classification: direct, binned and vector-quantised.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Unit(StrEnum):
    """Units of energies in a file."""

    GEV = "gev"
    MEV = "mev"


class EngineChoice(StrEnum):
    """What makes events."""

    FAST = "fast"
    PYTHIA = "pythia"


class PhiChoice(StrEnum):
    """How azimuths are binned."""

    FULL = "full"
    FOLDED = "folded"
    LEGACY = "legacy"


class EdgeChoice(StrEnum):
    """How bins are numbered."""

    QUANTILE = "quantile"
    LEGACY = "legacy"


class FitChoice(StrEnum):
    """Events that give the edges."""

    ALL = "all"
    BACKGROUND = "background"


CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last or a file name of the run.")]
InputOption = Annotated[Path, typer.Option("--input", help="HDF5 file to read.")]
OutputOption = Annotated[Path, typer.Option("--output", help="HDF5 file to write.")]
UnitsOption = Annotated[Unit, typer.Option("--units", help="Unit of energies in the file.")]
NumBinsOption = Annotated[int, typer.Option("--num-bins", min=2, max=16, help="Bins of each quantity.")]
WithEnergyOption = Annotated[bool, typer.Option("--with-energy", help="Bin E too.")]


@app.callback()
def main_options(debug: DebugOption = False) -> None:
    """Tokens for four-top classification: direct, binned and vector-quantised."""


@app.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", help="HDF5 file to write.")],
    num_events: NumEventsOption = 20_000,
    seed: SeedOption = 1,
    engine: Annotated[
        EngineChoice, typer.Option(help="pythia: shower, hadrons, anti-kT; needs the extra of that name.")
    ] = EngineChoice.FAST,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    as_json: JsonOption = False,
) -> None:
    """Simulate four-top events and their backgrounds into one HDF5 file in the public format."""
    from fourtop_tokens.config import PRESETS, Config
    from fourtop_tokens.simulate import simulate as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    splits = work(
        out,
        num_events,
        seed=seed,
        engine=engine.value,
        muon_ids=chosen.simulation.muon_ids,
        cluster=cluster,
        num_workers=num_workers,
    )
    print_result({"out": out, **{split: len(events) for split, events in splits.items()}}, as_json)


@app.command()
def tokenize(
    input_: InputOption,
    output: OutputOption,
    num_bins: NumBinsOption = 5,
    with_energy: WithEnergyOption = False,
    phi_mode: Annotated[PhiChoice, typer.Option(help="How azimuths are binned.")] = PhiChoice.FULL,
    edge_mode: Annotated[EdgeChoice, typer.Option(help="legacy: off by one.")] = EdgeChoice.QUANTILE,
    fit_on: Annotated[FitChoice, typer.Option(help="Train events that give edges.")] = FitChoice.ALL,
    units: UnitsOption = Unit.GEV,
    as_json: JsonOption = False,
) -> None:
    """Bin every object into one integer; edges come from the train split."""
    from fourtop_tokens.tokenize import tokenize as work

    result = work(
        input_, output, num_bins=num_bins, with_energy=with_energy, phi_mode=phi_mode.value,
        edge_mode=edge_mode.value, fit_on=fit_on.value, units=units.value,
    )  # fmt: skip
    print_result(result, as_json)


@app.command("compare-tokens")
def compare_tokens(
    ours: Annotated[Path, typer.Option("--ours", help="Binned HDF5 file.")],
    theirs: Annotated[Path, typer.Option("--theirs", help="Another one, with any splits.")],
    out: OutOption = Path("comparison"),
    num_bins: NumBinsOption = 5,
    with_energy: WithEnergyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two binned files: vocabulary, events, distributions, with a picture."""
    from fourtop_tokens.tokenize import compare as work

    print_result(work(ours, theirs, out, num_bins=num_bins, with_energy=with_energy), as_json)


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/fourtop"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network, evaluate it and export it; without a data file one is simulated."""
    from fourtop_tokens.config import PRESETS, Config
    from fourtop_tokens.train import train as work
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command("train-vqvae")
def train_vqvae(
    preset: PresetOption = "vqvae",
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/vqvae"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train the VQ-VAE whose codes a classifier can use as tokens."""
    from fourtop_tokens.config import PRESETS, Config
    from fourtop_tokens.train import train as work
    from hep_shared.config import load_config
    from hep_shared.errors import ConfigError

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    if chosen.task.kind != "vqvae":
        raise ConfigError(f"--preset {preset} is a {chosen.task.kind}; train-vqvae needs task.kind vqvae.")
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def sweep(
    preset: PresetOption = "study",
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/sweep"),
    device: DeviceOption = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first configurations.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Instead of sweep.seeds.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of train.epochs.")] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Train the seeds as one batched model.")
    ] = False,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    as_json: JsonOption = False,
) -> None:
    """Train every unique configuration with every seed; run it again to go on after an interruption."""
    from fourtop_tokens.config import PRESETS, Config
    from fourtop_tokens.sweep import sweep as work
    from hep_shared.config import load_config

    items = [*(set_ or [])]
    items += [f"sweep.seeds={seeds}"] if seeds else []
    items += [f"train.epochs={epochs}"] if epochs else []
    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=items)
    result = work(
        chosen, out, limit=limit, ensemble=ensemble, device=device, num_workers=num_workers, cluster=cluster
    )
    print_result(result, as_json)


@app.command()
def evaluate(
    run: RunOption,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a run on one split and draw its pictures."""
    from fourtop_tokens.evaluate import evaluate as work

    print_result(work(run, split=split, device=device, checkpoint=checkpoint), as_json)


@app.command()
def predict(
    input_: InputOption,
    output: OutputOption,
    run: Annotated[Path | None, typer.Option("--run", help="Run directory of a training.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Exported model instead of a run.")] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Events at a time.")] = 512,
    units: UnitsOption = Unit.GEV,
    as_json: JsonOption = False,
) -> None:
    """Classify every event of an HDF5 file into another one."""
    from fourtop_tokens.predict import choose_model
    from fourtop_tokens.predict import predict as work

    model = choose_model(run, onnx)
    result = work(
        model, input_, output, device=device, checkpoint=checkpoint, batch_size=batch_size, units=units.value
    )
    print_result(result, as_json)


@app.command()
def export(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", help="ONNX file to write.")],
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
) -> None:
    """Write an ONNX file that takes events in GeV and gives probabilities."""
    from fourtop_tokens.export import export as work

    print_result(work(run, out, checkpoint=checkpoint), as_json)


@app.command()
def bench(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    num_events: NumEventsOption = 20_000,
    as_json: JsonOption = False,
) -> None:
    """Measure simulation, tokenising, the codebook and training on this machine."""
    from fourtop_tokens.bench import bench as work
    from fourtop_tokens.config import PRESETS, Config
    from hep_shared.bench import print_rows
    from hep_shared.config import load_config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    print_rows(work(chosen, device=device, num_events=num_events), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories or directories of sweeps.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap.")] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Compare runs in one self-contained HTML page, with statistics, figures and a table."""
    from fourtop_tokens.report import report as work

    print_result(work(runs, out, num_resamples=resamples), as_json)


@app.command()
def anchors(
    input_: Annotated[Path, typer.Option("--input", help="The public four-top HDF5 file.")] = Path(
        "4tops_splitted.h5"
    ),
    out: OutOption = Path("runs/anchors"),
    seeds: Annotated[int, typer.Option(min=2, help="Seeds of each model.")] = 3,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    units: UnitsOption = Unit.GEV,
    as_json: JsonOption = False,
) -> None:
    """Train the published models on the public file and compare with the published numbers."""
    from fourtop_tokens.anchors import anchors as work

    result = work(input_, out, seeds=seeds, overrides=set_ or (), device=device, units=units.value)
    print_result(result, as_json)


def main() -> None:
    """Run the program."""
    run_cli(app, "fourtop_tokens")


if __name__ == "__main__":
    main()
