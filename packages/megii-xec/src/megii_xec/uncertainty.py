r"""How sure a network is, and whether that is true.

    MC dropout   N passes with dropout on:  y = mean,  σ² = variance
    ensemble     M trained networks:        y = mean,  σ² = variance + mean of their own σ²

Calibration, with pulls z = (pred − true) / σ: the share of |z| < 1 should be 68.3 %, of |z| < 2 95.4 %, and
the 68 % width of z should be 1. That width is also the factor which calibrates σ.

References:
    Gal, Ghahramani, Dropout as a Bayesian approximation, arXiv:1506.02142.
    Lakshminarayanan et al., Deep ensembles, arXiv:1612.01474.

Dimensions: B events, K components of a target.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hep_shared.amp import resolve_device
from hep_shared.errors import UserError
from megii_xec import metrics
from megii_xec.data.stream import PhotonBatch
from megii_xec.data.targets import TARGETS
from megii_xec.models.readout import SIGMA
from megii_xec.predict import Arrays, Predictor, load_model, load_run, run_model

LEVELS = tuple(np.round(np.linspace(0.05, 0.95, 19), 2).tolist())


def mc_dropout(run: Path, device: str, *, num_passes: int, checkpoint: str = "best") -> Predictor:
    """Predict with dropout on, several times.

    Args:
        run: Run directory.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_passes: Passes, at least 2.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        The predictor; it draws the same numbers for the same event numbers.

    Raises:
        UserError: The network was trained without dropout.
    """
    if num_passes < 2:
        raise UserError(f"--mc-dropout is {num_passes}; a spread needs at least 2 passes.")
    where = resolve_device(device)
    model = load_model(run, checkpoint=checkpoint).to(where)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    if not any(rates):
        raise UserError(
            f"{run} was trained without dropout, so --mc-dropout has nothing to vary; train with "
            "model.head_dropout or model.dropout above 0, or use --ensemble."
        )
    model.train()

    @torch.inference_mode()
    def reconstruct(batch: PhotonBatch) -> Arrays:
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            torch.manual_seed(int(batch.index[0]))
            return combine([run_model(model, batch, where) for _ in range(num_passes)])

    outputs = (*model.targets, *(SIGMA + name for name in model.targets if name != "n_gamma"))
    return Predictor(model.targets, outputs, model.normalization, reconstruct, run)


def ensemble(runs: Sequence[Path], device: str, *, checkpoint: str = "best") -> Predictor:
    """Predict with several trained networks.

    Args:
        runs: Run directories, at least two.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the runs.

    Returns:
        The predictor.

    Raises:
        UserError: There are fewer than two, or they differ in targets or normalisation.
    """
    if len(runs) < 2:
        raise UserError("an ensemble needs at least two runs; give --ensemble RUN once for each further run.")
    members = [load_run(run, device, checkpoint=checkpoint) for run in runs]
    first = members[0]
    for member in members[1:]:
        if member.targets != first.targets or member.normalization != first.normalization:
            raise UserError(
                f"{member.source} and {first.source} differ in targets or normalisation and cannot be "
                "averaged; train the members with one configuration and several train.seed."
            )

    def reconstruct(batch: PhotonBatch) -> Arrays:
        return combine([member.reconstruct(batch) for member in members])

    outputs = (*first.targets, *(SIGMA + name for name in first.targets if name != "n_gamma"))
    return Predictor(first.targets, outputs, first.normalization, reconstruct, first.source)


def combine(predictions: Sequence[Arrays]) -> Arrays:
    """Average predictions of the same events.

    Args:
        predictions: At least two mappings from output to values (B, K).

    Returns:
        Means (medians of a number of photons) and, as `sigma_<target>`, standard deviations.
    """
    combined: Arrays = {}
    for name in predictions[0]:
        if name.startswith(SIGMA):
            continue
        stack = np.stack([prediction[name] for prediction in predictions]).astype(np.float64)
        if name == "n_gamma":
            combined[name] = np.median(stack, axis=0).round().astype(np.float32)
            continue
        combined[name] = stack.mean(0).astype(np.float32)
        variance = stack.var(0, ddof=1)
        if SIGMA + name in predictions[0]:
            own = np.stack([prediction[SIGMA + name] for prediction in predictions]).astype(np.float64)
            variance += np.square(own).mean(0)
        combined[SIGMA + name] = np.sqrt(variance).astype(np.float32)
    return combined


def calibration(
    predicted: Mapping[str, NDArray[np.float32]], truth: Mapping[str, NDArray[np.float32]]
) -> dict[str, dict[str, object]]:
    """Compare uncertainties with errors.

    Args:
        predicted: Predictions and their `sigma_<target>`, (B, K).
        truth: Targets, (B, K).

    Returns:
        For each component with an uncertainty: `coverage68`, `coverage95` (shares of |z| < 1 and < 2),
        `pull_bias`, `pull_width68`, `mean_sigma` in the unit of the target, `error_correlation` (rank
        correlation of σ and |error|), and `levels` with the `observed` share of events inside each central
        interval of a normal distribution.
    """
    result: dict[str, dict[str, object]] = {}
    for output, sigma in predicted.items():
        if not output.startswith(SIGMA):
            continue
        target = output.removeprefix(SIGMA)
        error = predicted[target].astype(np.float64) - truth[target]
        for k, component in enumerate(TARGETS[target].components):
            good = np.isfinite(error[:, k]) & np.isfinite(sigma[:, k]) & (sigma[:, k] > 0)
            if good.sum() < 2:
                continue
            e, s = error[good, k], sigma[good, k].astype(np.float64)
            pull = e / s
            result[component] = {
                "coverage68": float((np.abs(pull) < 1).mean()),
                "coverage95": float((np.abs(pull) < 2).mean()),
                "pull_bias": float(np.median(pull)),
                "pull_width68": float(metrics.width68(pull)),
                "mean_sigma": float(s.mean()),
                "error_correlation": rank_correlation(s, np.abs(e)),
                "levels": list(LEVELS),
                "observed": [float((np.abs(pull) < _quantile(level)).mean()) for level in LEVELS],
            }
    return result


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two samples (B,); 0 if one of them is constant."""
    ranks = [np.argsort(np.argsort(x)).astype(np.float64) for x in (a, b)]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _quantile(level: float) -> float:
    """|z| below which a normal variable is with this probability: sqrt(2) erfinv(level)."""
    value: float = torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    return float(np.sqrt(2) * value)
