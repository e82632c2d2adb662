"""`chhiggs-pnet tune`: a genetic search of hyperparameters that can be stopped and continued.

NSGA-II over width, neighbours, learning rate, weight decay, dropout and warm-up, with the fitness of the CMS
analysis, valid + 0.3 (valid − train), which punishes overfitting. The study lives in a journal file that
several processes may work on; every trial is a run directory of its own.

References:
    K. Deb et al., IEEE Trans. Evol. Comput. 6, 182 (2002), NSGA-II; T. Akiba et al., arXiv:1907.10902.
"""

import logging
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from chhiggs_pnet.config import Config, ParticleNetConfig
from chhiggs_pnet.train import fit
from hep_shared.amp import resolve_device
from hep_shared.distributed import World
from hep_shared.errors import TrainingError, UserError
from hep_shared.files import make_directory
from hep_shared.loop import open_run
from hep_shared.run import RunDir

OVERFIT_FACTOR = 0.3  # of the CMS analysis
WIDTHS = (1, 2, 3, 4)  # times 8 channels a head of the first block
log = logging.getLogger(__name__)


def suggest(trial: optuna.Trial, config: Config) -> Config:
    """Draw the genes of a trial.

    Args:
        trial: The trial.
        config: What stays as it is.

    Returns:
        The configuration of the trial.
    """
    model = config.model
    assert isinstance(model, ParticleNetConfig)
    base = trial.suggest_categorical("width", WIDTHS) * 8 * model.num_heads // 4
    base = max(base // model.num_heads, 1) * model.num_heads
    genes: dict[str, Any] = {
        "hidden_dims": (base, base, 2 * base),
        "num_neighbors": trial.suggest_int("num_neighbors", 2, 8),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
    }
    optim = {
        "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "warmup_fraction": trial.suggest_float("warmup_fraction", 0.0, 0.3),
    }
    return config.model_copy(
        update={
            "model": model.model_copy(update=genes),
            "optim": config.optim.model_copy(update=optim),
            "pretrain": config.pretrain.model_copy(update={"epochs": 0}),
            "average": config.average.model_copy(update={"method": "none"}),
            "train": config.train.model_copy(update={"curriculum": (), "finish": ()}),
        }
    )


def tune(
    config: Config,
    out: Path,
    *,
    num_trials: int = 64,
    population: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Search, or go on searching, until the study has a number of finished trials.

    Args:
        config: The configuration to vary; its store must exist.
        out: Directory of the study.
        num_trials: Finished trials to reach.
        population: Individuals of a generation.
        seed: Seed of the search.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        Number of trials, fitness and genes of the best.

    Raises:
        UserError: The configuration has no graph network, or every trial diverged.
    """
    if not isinstance(config.model, ParticleNetConfig):
        raise UserError(f"tune varies the graph network, but model.kind is '{config.model.kind}'.")
    make_directory(out)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    world = World(0, 1, 0, resolve_device(device))

    def objective(trial: optuna.Trial) -> float:
        suggested, folder = suggest(trial, config), out / f"trial{trial.number:04d}"
        run = open_run(suggested, world, out=folder, resume=True, command="tune", sinks=suggested.train.track)
        try:
            fit(Config.model_validate(run.config), world, run)
        except TrainingError as error:
            log.warning("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned(str(error)) from error
        finally:
            run.close()
        fitness = fitness_of(run)
        log.info("trial %d: fitness %.4f with %s", trial.number, fitness, trial.params)
        return fitness

    study = optuna.create_study(
        study_name="chhiggs-pnet",
        storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))),
        load_if_exists=True,
        sampler=optuna.samplers.NSGAIISampler(population_size=population, seed=seed + count(out)),
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # a killed process left it
        study.enqueue_trial(trial.params, skip_if_exists=False)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    finished = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    study.optimize(objective, n_trials=max(num_trials - finished, 0), catch=(), callbacks=None)
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        raise UserError(f"every trial in {out} diverged; lower optim.lr or look at the logs of the trials.")
    return {
        "num_trials": len(complete), "fitness": study.best_value, "best_trial": study.best_trial.number,
        "genes": study.best_params,
    }  # fmt: skip


def fitness_of(run: RunDir) -> float:
    """Validation loss of the best epoch plus a share of its distance to the training loss."""
    best = min(run.history(), key=lambda record: record["val_loss"])
    return float(best["val_loss"] + OVERFIT_FACTOR * max(best["val_loss"] - best["train_loss"], 0.0))


def count(out: Path) -> int:
    """Number of trials started in a directory: a continued search must not draw the same numbers again."""
    return len(list(out.glob("trial*")))
