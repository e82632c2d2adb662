"""The command line `jet-foundation`: verbs only; each imports what it needs itself."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

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
from jet_foundation.data.schema import MAX_PARTICLES, FeatureSet

app = typer.Typer(
    help="Pre-train Lorentz-equivariant and particle transformers on jets, and put them to use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
NumJetsOption = Annotated[int, typer.Option("--num-events", "--num-jets", min=1, help="Number of jets.")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best, last or a file name of the run.")]


@app.callback()
def main_options(debug: DebugOption = False) -> None:
    """Pre-train Lorentz-equivariant and particle transformers on jets, and put them to use."""


@app.command()
def simulate(
    out: OutOption,
    preset: PresetOption = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="toy, or pythia for Pythia 8; by default the preset's, or toy."),
    ] = None,
    num_jets: NumJetsOption = 2000,
    seed: SeedOption = 1,
    num_workers: NumWorkersOption = 1,
    cluster: ClusterOption = "local",
    jets_per_file: Annotated[int, typer.Option(help="Jets in each file.")] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Simulate jets of the ten classes into a directory of JetClass files."""
    from hep_shared.config import load_config
    from jet_foundation.config import PRESETS, Config
    from jet_foundation.simulate import simulate as work

    simulated = load_config(Config, presets=PRESETS, preset=preset).data.simulated
    chosen = engine or (simulated.engine if simulated else "toy")
    files = work(
        out, engine=cast(Any, chosen), num_jets=num_jets, seed=seed, num_workers=num_workers, cluster=cluster,
        jets_per_file=jets_per_file,
    )  # fmt: skip
    print_result({"out": out, "num_files": len(files), "num_jets": num_jets}, as_json)


@app.command("simulate-events")
def simulate_events(
    out: OutOption,
    num_events: NumEventsOption = 3500,
    seed: SeedOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Simulate toy events of jets, leptons and missing momentum into a data set for the task event."""
    from jet_foundation.simulate import simulate_events as work

    info = work(out, num_events=num_events, seed=seed)
    print_result({"out": out, "classes": len(info.classes), "num_events": info.num_jets}, as_json)


@app.command()
def preprocess(
    input_: Annotated[list[Path], typer.Option("--input", help="File or directory; repeatable.")],
    out: OutOption,
    jets_per_class: Annotated[
        int | None, typer.Option(min=1, help="Jets of each class; by default as many as there are.")
    ] = None,
    feature_set: Annotated[
        FeatureSet | None, typer.Option(help="What to keep of a particle; by default all there is.")
    ] = None,
    scheme: Annotated[
        Literal["fitted", "part"], typer.Option(help="Fitted normalisation, or the published numbers.")
    ] = "fitted",
    max_particles: Annotated[
        int, typer.Option(min=1, help="Longer jets lose their softest particles.")
    ] = MAX_PARTICLES,
    fractions: Annotated[
        tuple[float, float, float], typer.Option(help="Shares of training, validation and test.")
    ] = (0.8, 0.1, 0.1),
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Class name of a padded sample, in the order of labels; repeatable."),
    ] = None,
    seed: SeedOption = 42,
    as_json: JsonOption = False,
) -> None:
    """Make a balanced data set of JetClass, top-tagging, quark-gluon or padded sample files."""
    from jet_foundation.data.preprocess import preprocess as work

    info = work(
        input_, out, jets_per_class=jets_per_class, fractions=fractions, feature_set=feature_set,
        scheme=scheme, max_particles=max_particles, classes=classes, seed=seed,
    )  # fmt: skip
    facts = {"classes": len(info.classes), "feature_set": info.feature_set, "num_jets": info.num_jets}
    print_result({"out": out, **facts, "mean_num_particles": info.mean_num_particles}, as_json)


@app.command()
def train(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/jets"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a network, evaluate it and export it; without a data set one is simulated."""
    from hep_shared.config import load_config
    from jet_foundation.config import PRESETS, Config
    from jet_foundation.train import train as work

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def pretrain(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/pretrain"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train an encoder to predict hidden particles; no label is used."""
    from hep_shared.config import load_config
    from jet_foundation.config import PRESETS, Config
    from jet_foundation.train import train as work

    overrides = ["task.kind=pretrain", *(set_ or [])]
    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=overrides)
    result = work(chosen, out=out, resume=resume, device=device, command=shlex.join(sys.argv))
    if result:
        print_result(result, as_json)


@app.command()
def finetune(
    start: Annotated[Path, typer.Option("--from", help="Run directory of a pre-training.")],
    task: Annotated[
        Literal["classification", "regression", "generation", "super_resolution", "event"],
        typer.Option("--task", help="What to train the encoder for."),
    ] = "classification",
    mode: Annotated[
        Literal["full", "partial", "frozen"] | None,
        typer.Option("--mode", help="What of the encoder is trained; by default the preset's, or full."),
    ] = None,
    last_k: Annotated[
        int | None,
        typer.Option("--last-k", min=1, help="Layers that partial trains; by default the preset's, or 2."),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/finetune"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a pre-trained encoder further for a task, on its own data set or on another."""
    from hep_shared.config import load_config
    from jet_foundation.config import PRESETS, Config
    from jet_foundation.train import train as work

    given = {"task.kind": task, "start.run": start, "start.mode": mode, "start.last_k": last_k}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None] + (set_ or [])
    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=overrides)
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
    """Measure how well a run does its task and draw its pictures."""
    from jet_foundation.evaluate import evaluate as work

    print_result(work(run, split=split, device=device, checkpoint=checkpoint), as_json)


@app.command()
def transfer(
    start: Annotated[Path, typer.Option("--from", help="Run directory of a pre-training.")],
    sample: Annotated[Literal["top-landscape", "quark-gluon"], typer.Option(help="What the files are.")],
    input_: Annotated[list[Path], typer.Option("--input", help="File or directory; repeatable.")],
    mode: Annotated[
        Literal["full", "partial", "frozen"], typer.Option("--mode", help="What of the encoder is trained.")
    ] = "full",
    jets_per_class: Annotated[
        int | None, typer.Option(min=1, help="Jets of each class; by default all.")
    ] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    out: OutOption = Path("runs/transfer"),
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a pre-trained encoder further on the top-tagging or the quark-gluon sample."""
    from jet_foundation.transfer import transfer as work

    result = work(
        start, sample, input_, out, preset=preset, overrides=[f"start.mode={mode}", *(set_ or [])],
        jets_per_class=jets_per_class, resume=resume, device=device, command=shlex.join(sys.argv),
    )  # fmt: skip
    if result:
        print_result(result, as_json)


@app.command()
def anchors(
    jetclass: Annotated[Path, typer.Option("--jetclass", help="Folder with JetClass ROOT files.")],
    out: OutOption = Path("runs/anchors"),
    jets_per_class: Annotated[int, typer.Option(min=10, help="Jets of each class over all splits.")] = 10_000,
    preset: PresetOption = "published",
    set_: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Run the 100,000-jet recipe on real JetClass files and compare with the goal."""
    from jet_foundation.anchors import anchors as work

    result = work(
        jetclass, out, preset=preset or "published", overrides=set_ or [], jets_per_class=jets_per_class,
        device=device, command=shlex.join(sys.argv),
    )  # fmt: skip
    if result:
        print_result(result, as_json)


@app.command()
def anomaly(
    run: RunOption,
    background: Annotated[str, typer.Option("--background", help="Class that counts as known.")] = "QCD",
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score jets by how far they lie from known ones in the embedding of a run, without labels."""
    from jet_foundation.evaluate import anomaly as work

    found = work(run, background=background, split=split, device=device, checkpoint=checkpoint)
    print_result(found, as_json)


@app.command()
def predict(
    input_: Annotated[list[str], typer.Option("--input", help="File or glob; repeatable.")],
    output: Annotated[Path, typer.Option("--output", help="ROOT file to write.")],
    run: Annotated[Path | None, typer.Option("--run", help="Run directory of a training.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Exported model instead of a run.")] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Jets at a time.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Classify every jet of some files into a ROOT file."""
    from jet_foundation.predict import choose_model
    from jet_foundation.predict import predict as work

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
    """Write an ONNX file that takes raw particles and gives probabilities."""
    from jet_foundation.export import export as work

    print_result(work(run, out, checkpoint=checkpoint), as_json)


@app.command()
def bench(
    preset: PresetOption = "small",
    config: ConfigOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    num_jets: NumJetsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure simulation, loading, training and classification on this machine."""
    from hep_shared.bench import print_rows
    from hep_shared.config import load_config
    from jet_foundation.bench import bench as work
    from jet_foundation.config import PRESETS, Config

    chosen = load_config(Config, presets=PRESETS, preset=preset, file=config, overrides=set_)
    print_rows(work(chosen, device=device, num_jets=num_jets), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side in one self-contained HTML page."""
    from jet_foundation.report import report as work

    print_result(work(runs, out), as_json)


def main() -> None:
    """Run the program."""
    run_cli(app, "jet_foundation")


if __name__ == "__main__":
    main()
