"""`lhcb-extrap run-all`: the experiments of the study, each one training in a directory of its own.

`base` are three networks in four sizes, `ablation` five weights of the physics losses, `momentum` four ranges
of momentum, `kick` the kick nets in three sizes. Experiments of one momentum range share one data set. The
manifest `experiments.json` says which experiment has which configuration; an experiment that is done is not
trained again, one that was interrupted goes on from its last checkpoint.

A stop signal reaches the first process alone. It leaves the file `STOP`, which the trainings of other
processes and machines look for, so that they save within seconds too; the next call removes it.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hep_shared.config import load_config
from hep_shared.errors import ConfigError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, atomic_write_text, reader_boundary
from hep_shared.signals import StopTraining, stop_flag
from lhcb_extrap.config import PRESETS, Config
from lhcb_extrap.data.history import HISTORY_FILE
from lhcb_extrap.physics.sampling import MOMENTUM_STUDIES_GEV
from lhcb_extrap.simulate import simulate

MANIFEST = "experiments.json"
STOP_FILE = "STOP"
_POLL_S = 1.0
SIZES = ("tiny", "small", "medium", "wide")
KINDS = ("mlp", "pinn", "rkpinn")
# Weights of the distance to the end, the equations of motion and the initial condition.
ABLATIONS: dict[str, tuple[float, float, float]] = {
    "data_only": (1.0, 0.0, 0.0),
    "pde_weak": (1.0, 0.01, 0.01),
    "pde_balanced": (1.0, 1.0, 1.0),
    "pde_strong": (1.0, 10.0, 10.0),
    "pde_dominant": (0.1, 1.0, 1.0),
}
GROUPS = ("base", "ablation", "momentum", "kick")
DEFAULT_GROUPS = ("base", "ablation", "momentum")


@dataclass(frozen=True)
class Experiment:
    """One training of the study.

    Attributes:
        name: Directory.
        group: `base`, `ablation`, `momentum` or `kick`.
        preset: Preset to start from.
        study: Momentum range of the tracks.
        settings: `--set` items.
    """

    name: str
    group: str
    preset: str
    study: str = "full_range"
    settings: tuple[str, ...] = ()


def experiments(groups: Sequence[str] = DEFAULT_GROUPS) -> list[Experiment]:
    """List the experiments.

    Args:
        groups: Which groups.

    Returns:
        12 base experiments, 5 ablations, 4 momentum studies, 3 kick nets.

    Raises:
        ConfigError: There is no such group.
    """
    for group in groups:
        if group not in GROUPS:
            raise ConfigError(f"--group is '{group}'; choose {', '.join(GROUPS)}.")
    found = [Experiment(f"{kind}_{size}", "base", f"{kind}_{size}") for kind in KINDS for size in SIZES]
    for name, weights in ABLATIONS.items():
        items = zip(("lambda_data", "lambda_pde", "lambda_ic"), weights, strict=True)
        settings = tuple(f"task.{key}={value}" for key, value in items)
        found.append(Experiment(f"pinn_medium_{name}", "ablation", "pinn_medium", settings=settings))
    found += [
        Experiment(f"mlp_medium_{study}", "momentum", "mlp_medium", study) for study in MOMENTUM_STUDIES_GEV
    ]
    found += [Experiment(f"kick{width}", "kick", f"kick{width}") for width in (32, 48, 64)]
    return [experiment for experiment in found if experiment.group in groups]


def study_setting(study: str | None) -> list[str]:
    """`--set` item of a momentum study.

    Args:
        study: Name of the study, or None.

    Returns:
        The item; nothing for None.

    Raises:
        ConfigError: There is no such study.
    """
    if study is None:
        return []
    ranges: dict[str, tuple[float, float]] = {
        str(name): value for name, value in MOMENTUM_STUDIES_GEV.items()
    }
    if study not in ranges:
        raise ConfigError(f"--study is '{study}'; choose {', '.join(ranges)}.")
    low, high = ranges[study]
    return [f"simulation.momentum_gev=[{low}, {high}]"]


def run_all(
    out: Path,
    *,
    groups: Sequence[str] = (),
    file: Path | None = None,
    overrides: Sequence[str] = (),
    num_workers: int = 1,
    cluster: str = "local",
    device: str = "auto",
    command: str = "",
) -> dict[str, Any]:
    """Train what is missing of the study.

    Args:
        out: Directory of the runs.
        groups: Groups of experiments; base, ablation and momentum when empty.
        file: YAML file laid over every experiment's preset.
        overrides: `--set` items for all experiments; those of an experiment win.
        num_workers: Trainings at a time.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        device: Where to train.
        command: Command line, for the record.

    Returns:
        Directory, number of experiments and which were trained by this call.

    Raises:
        UserError: The directory holds another study, or a training cannot go on.
    """
    chosen = experiments(groups or DEFAULT_GROUPS)
    configs = [
        load_config(
            Config, presets=PRESETS, preset=e.preset, file=file,
            overrides=[*overrides, *study_setting(e.study), *e.settings],
        )
        for e in chosen
    ]  # fmt: skip
    claim(out, {"overrides": list(overrides), "config": str(file) if file else None}, chosen)
    configs = [
        with_shared_data(out, e, c, num_workers, cluster) for e, c in zip(chosen, configs, strict=True)
    ]
    with announced_stop(out):
        made = run_shards(
            partial(train_one, out, chosen, configs, device, command),
            len(chosen),
            cluster=cluster,
            num_workers=num_workers,
            done=partial(is_done, out, chosen),
            retries=1,
            progress="experiments",
        )
    return {
        "output": out,
        "num_experiments": len(chosen),
        "trained": [chosen[index].name for index in made],
    }


def claim(out: Path, settings: dict[str, Any], chosen: Sequence[Experiment]) -> None:
    """Write the manifest, or check that the directory is of the same study; new groups are added.

    Args:
        out: Directory of the runs.
        settings: What all experiments share.
        chosen: Experiments of this call.

    Raises:
        UserError: The directory was begun with other settings.
    """
    path = out / MANIFEST
    known: dict[str, Any] = {}
    if path.exists():
        with reader_boundary(path, remedy="choose another --out or remove the directory"):
            former = json.loads(path.read_text())
            known = former["experiments"]
        if former["settings"] != settings:
            raise UserError(
                f"{out} holds a study with other settings ({json.dumps(former['settings'])}); "
                "repeat them or choose another --out."
            )
    known |= {e.name: {k: v for k, v in asdict(e).items() if k != "name"} for e in chosen}
    atomic_write_json(path, {"settings": settings, "experiments": known})


def with_shared_data(
    out: Path, experiment: Experiment, config: Config, num_workers: int, cluster: str
) -> Config:
    """Simulate the tracks of a momentum range once for all its experiments.

    Args:
        out: Directory of the runs.
        experiment: Whose data.
        config: Its configuration.
        num_workers: Simulating processes.
        cluster: Where they run.

    Returns:
        The configuration with files.
    """
    data = config.data
    if data.files or data.simulated is None:
        return config
    folder = out / "data" / experiment.study
    simulate(
        config.simulation, config.field, folder, num_tracks=data.simulated.num_tracks,
        seed=data.simulated.seed, num_workers=num_workers, cluster=cluster,
    )  # fmt: skip
    return config.model_copy(update={"data": data.model_copy(update={"files": (f"{folder}/batch_*.npz",)})})


def is_done(out: Path, chosen: Sequence[Experiment], index: int) -> bool:
    """Whether an experiment was trained and evaluated to the end."""
    path = out / chosen[index].name / HISTORY_FILE
    if not path.exists():
        return False
    try:
        return bool(json.loads(path.read_text())["test_final"])
    except (ValueError, KeyError):
        return False


def train_one(
    out: Path, chosen: Sequence[Experiment], configs: Sequence[Config], device: str, command: str, index: int
) -> None:
    """Train one experiment, from its last checkpoint if it has one."""
    from lhcb_extrap.train import train

    try:
        with heeded_stop(out):
            train(configs[index], out=out / chosen[index].name, resume=True, device=device, command=command)
    except StopTraining:
        return  # saved; not done, so the farm leaves with 85 and the next call goes on


@contextmanager
def announced_stop(out: Path) -> Iterator[None]:
    """Leave the file `STOP` in `out` once this process was asked to stop; remove that of a former call."""
    path = out / STOP_FILE
    path.unlink(missing_ok=True)

    def announce() -> bool:
        if stop_flag().requested:
            atomic_write_text(path, f"{stop_flag().signal_name}; the next `lhcb-extrap run-all` goes on.\n")
        return stop_flag().requested

    with polling(announce):
        yield


@contextmanager
def heeded_stop(out: Path) -> Iterator[None]:
    """Ask the training of this process to stop once there is the file `STOP` in `out`."""
    flag, asked = stop_flag(), False

    def heed() -> bool:
        nonlocal asked
        if not flag.requested and (out / STOP_FILE).exists():
            flag.requested, flag.signal_name, asked = True, STOP_FILE, True
        return flag.requested

    try:
        with polling(heed):
            yield
    finally:
        if asked:  # this process may live on and be given other work
            flag.requested, flag.signal_name = False, None


@contextmanager
def polling(check: Callable[[], bool]) -> Iterator[None]:
    """Call a function at the begin, every second, and at the end, until it returns True."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            if check():
                return

    check()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        check()
