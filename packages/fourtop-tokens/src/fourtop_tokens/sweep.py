"""`fourtop-tokens sweep`: every unique configuration with every seed, resumable at any point.

The factors are tokenisation, pooling, missing momentum, E and, if asked for, the attention bias from pairs.
Binned tokens hold no E, so with and without E they are the same configuration: of the 36 combinations 30 are
trained and 6 are named as duplicates in `manifest.json`. A member is one run directory; it is done when its
evaluation is there. VQ-VAEs are trained first, one for each vector and seed.

A limit takes the first configurations in an order in which tokenisations vary fastest, then poolings: six are
three tokenisations with two poolings. The bias from pairs varies slowest.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourtop_tokens.config import (
    BinnedTokens,
    ClassifierConfig,
    Config,
    DataConfig,
    IdentityTokens,
    Pairwise,
    Pooling,
    RawTokens,
    ReconstructionConfig,
    Tokens,
    TokensName,
    Vector,
    VqTokens,
)
from fourtop_tokens.data.events import read_events
from fourtop_tokens.ensemble import train_ensemble
from fourtop_tokens.train import finish, simulated_file, train
from hep_shared.config import to_plain
from hep_shared.errors import ConfigError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, reader_boundary
from hep_shared.run import RunDir

MANIFEST = "manifest.json"
BINNED = ("binned", "binned_legacy", "binned_background")


@dataclass(frozen=True)
class Member:
    """One configuration of the factors."""

    tokens: TokensName
    pooling: Pooling
    met: bool
    vector: Vector
    pairwise: Pairwise = "none"

    @property
    def name(self) -> str:
        """Name of the configuration, such as `identity-cls-met-five`, with the bias from pairs if any."""
        name = f"{self.tokens}-{self.pooling}-{'met' if self.met else 'nomet'}-{self.vector}"
        return name if self.pairwise == "none" else f"{name}-{self.pairwise}"


def members(config: Config) -> tuple[list[Member], dict[str, str]]:
    """List the unique configurations.

    Args:
        config: The whole configuration; its section `sweep` holds the factors.

    Returns:
        The configurations in the order they are trained, and for each duplicate what it equals.
    """
    factors = config.sweep
    own: Pairwise = config.model.pairwise if isinstance(config.model, ClassifierConfig) else "none"
    unique: dict[str, Member] = {}
    duplicates: dict[str, str] = {}
    for pairwise, vector, met, pooling, tokens in itertools.product(
        factors.pairwise or (own,), factors.vectors, factors.met, factors.poolings, factors.tokens
    ):
        member = Member(tokens, pooling, met, vector, pairwise)
        # The masses of pairs hold E, so with the bias E is a factor of binned tokens too.
        same = tokens in BINNED and pairwise == "none"
        canonical = dataclasses.replace(member, vector="four") if same else member
        unique[canonical.name] = canonical
        if canonical != member:
            duplicates[member.name] = canonical.name
    return list(unique.values()), duplicates


def member_tokens(name: TokensName, config: Config, vqvae: Path) -> Tokens:
    """The tokens section of a member.

    Args:
        name: Level of the factor.
        config: The whole configuration, whose own tokens section gives the options that are no factor.
        vqvae: Run of the VQ-VAE.

    Returns:
        The section.
    """
    if name == "identity":
        return IdentityTokens()
    if name == "raw":
        return RawTokens()
    if name == "vq":
        return VqTokens(run=vqvae)
    legacy = name == "binned_legacy"
    own = config.model.tokens if isinstance(config.model, ClassifierConfig) else None
    own = own if isinstance(own, BinnedTokens) else BinnedTokens()
    return BinnedTokens(
        num_bins=own.num_bins,
        rows=own.rows,
        phi_mode="legacy" if legacy else "full",
        edge_mode="legacy" if legacy else "quantile",
        fit_on="background" if name == "binned_background" else "all",
    )


def sweep(
    config: Config,
    out: Path,
    *,
    limit: int | None = None,
    ensemble: bool = False,
    device: str = "auto",
    num_workers: int = 1,
    cluster: str = "local",
) -> dict[str, Any]:
    """Train and evaluate what is not done yet.

    Args:
        config: The whole configuration.
        out: Directory of the sweep.
        limit: Only the first configurations.
        ensemble: Train all seeds of a configuration as one batched model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_workers: Processes or batch jobs.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.

    Returns:
        Directory, number of configurations, runs, and runs made by this call.

    Raises:
        UserError: The directory holds another sweep, or a member cannot be trained.
    """
    if not isinstance(config.model, ClassifierConfig):
        raise ConfigError(f"model.kind is {config.model.kind}; a sweep needs the classifier normformer.")
    if config.data.tokens is not None:
        raise ConfigError("data.tokens is a binned file, but a sweep compares tokens; give data.events.")
    unique, duplicates = members(config)
    chosen = unique[:limit]
    if config.data.events is not None:  # nothing is written for a file that cannot be used
        read_events(config.data.events, units=config.data.units, num_events=config.data.num_events)
    open_sweep(config, out, unique, duplicates)
    if config.data.events is None:
        if config.data.simulated is None:
            raise ConfigError("data.events names no file; give one, or set data.simulated.num_events.")
        events = simulated_file(config, out / "data")
        config = config.model_copy(update={"data": config.data.model_copy(update={"events": events})})
    farm = functools.partial(run_shards, num_workers=num_workers, cluster=cluster, retries=0)
    seeds = [config.train.seed + index for index in range(config.sweep.seeds)]
    vectors = sorted({member.vector for member in chosen if member.tokens == "vq"})
    codebooks = [(vector, seed) for vector in vectors for seed in seeds]
    farm(
        functools.partial(_train_vqvae, config, out, codebooks, device), len(codebooks),
        done=functools.partial(_vqvae_done, out, codebooks), progress="VQ-VAEs",
    )  # fmt: skip
    jobs = [(member, seeds) for member in chosen] if ensemble else [
        (member, [seed]) for seed in seeds for member in chosen
    ]  # fmt: skip
    made = farm(
        functools.partial(_train_members, config, out, jobs, device), len(jobs),
        done=functools.partial(_members_done, out, jobs), progress="runs",
    )  # fmt: skip
    num_made = sum(len(jobs[index][1]) for index in made)
    return {
        "output": out, "configurations": len(chosen), "duplicates": len(duplicates),
        "runs": len(chosen) * len(seeds), "runs_made": num_made,
    }  # fmt: skip


def open_sweep(config: Config, out: Path, unique: Sequence[Member], duplicates: dict[str, str]) -> None:
    """Write the manifest, or compare with the one that is there: settings may not change on the way."""
    # Seeds are open-ended, and more of them may be added later.
    settings = to_plain(config)
    settings["sweep"].pop("seeds")
    path = out / MANIFEST
    if path.exists():
        with reader_boundary(path, remedy="choose another --out"):
            former = json.loads(path.read_text())["config"]
        if former != settings:
            changed = sorted(_differences(former, settings))
            raise UserError(
                f"--out {out} holds a sweep with other settings ({', '.join(changed[:4])}); "
                "use the former ones or another --out."
            )
        return
    record = {
        "configurations": [{"name": member.name, **asdict(member)} for member in unique],
        "duplicates": duplicates,
        "config": settings,
    }
    atomic_write_json(path, record)


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [name for key in keys for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")]
    return [] if a == b else [prefix.removesuffix(".")]


def run_path(out: Path, member: Member, seed: int) -> Path:
    """Directory of one run of a sweep."""
    return out / "runs" / f"{member.name}_seed{seed}"


def vqvae_path(out: Path, vector: str, seed: int) -> Path:
    """Directory of the VQ-VAE that members of a vector and seed use."""
    return out / "vqvae" / f"{vector}_seed{seed}"


def member_config(config: Config, out: Path, member: Member, seed: int) -> Config:
    """The configuration of one run.

    Args:
        config: The sweep's, which names its file.
        out: Directory of the sweep.
        member: Levels of the factors.
        seed: Seed of the run.

    Returns:
        A configuration for `train`.
    """
    model = config.model.model_copy(
        update={
            "tokens": member_tokens(member.tokens, config, vqvae_path(out, member.vector, seed)),
            "pooling": member.pooling,
            "met": member.met,
            "vector": member.vector,
            "pairwise": member.pairwise,
        }
    )
    train_section = config.train.model_copy(update={"seed": seed, "finish": ("evaluate",), "figures": False})
    return config.model_copy(update={"model": model, "train": train_section})


def vqvae_config(config: Config, vector: Vector, seed: int) -> Config:
    """The configuration of one VQ-VAE.

    Args:
        config: The sweep's, which names its file.
        vector: With or without E.
        seed: Seed of the run.

    Returns:
        A configuration for `train`.
    """
    data: DataConfig = config.data.model_copy(
        update={"batch_size": config.sweep.vqvae_batch_size, "augment": False}
    )
    return config.model_copy(
        update={
            "data": data,
            "model": config.sweep.vqvae.model_copy(update={"vector": vector}),
            "task": ReconstructionConfig(),
            "optim": type(config.optim)(weight_decay=0.0),
            "train": type(config.train)(
                epochs=config.sweep.vqvae_epochs,
                seed=seed,
                ema_decay=0.98,
                finish=("evaluate",),
                figures=False,
            ),
        }
    )


def is_done(run: Path) -> bool:
    """Whether a run was evaluated, the last thing that happens to it."""
    return (run / "evaluation_test.json").exists()


def _vqvae_done(out: Path, codebooks: Sequence[tuple[Vector, int]], index: int) -> bool:
    return is_done(vqvae_path(out, *codebooks[index]))


def _train_vqvae(
    config: Config, out: Path, codebooks: Sequence[tuple[Vector, int]], device: str, index: int
) -> None:
    vector, seed = codebooks[index]
    _train_one(vqvae_config(config, vector, seed), vqvae_path(out, vector, seed), device)


def _members_done(out: Path, jobs: Sequence[tuple[Member, list[int]]], index: int) -> bool:
    member, seeds = jobs[index]
    return all(is_done(run_path(out, member, seed)) for seed in seeds)


def _train_members(
    config: Config, out: Path, jobs: Sequence[tuple[Member, list[int]]], device: str, index: int
) -> None:
    member, seeds = jobs[index]
    configs = [member_config(config, out, member, seed) for seed in seeds]
    runs = [run_path(out, member, seed) for seed in seeds]
    if len(seeds) == 1:
        _train_one(configs[0], runs[0], device)
        return
    group = out / "groups" / member.name
    for trained, run in zip(train_ensemble(configs, runs, group=group, device=device), runs, strict=True):
        finish(trained, RunDir.open(run), device)


def _train_one(config: Config, run: Path, device: str) -> None:
    train(config, out=run, resume=True, device=device, command="fourtop-tokens sweep")
