"""`lhcb-extrap jacobian`: transport matrix d(x, y, tx, ty)/d(x, y, tx, ty, q/p) of a network.

The matrix of a network is exact (forward-mode differentiation), but it is the derivative of an approximation;
the comparison with the variational Runge-Kutta matrix says how good it is.

Dimension legend: B tracks.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacfwd, vmap

from hep_shared.run import RunDir
from lhcb_extrap.config import Config
from lhcb_extrap.data.field_source import load_field
from lhcb_extrap.export import example_tracks
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.jacobian import rk4_with_jacobian
from lhcb_extrap.tasks import TASKS

_NUM_STATE = 5  # x, y, tx, ty, q/p
_STEP_MM = 50.0
ROWS = ("x", "y", "tx", "ty")
COLUMNS = ("x", "y", "tx", "ty", "qop")


def network_jacobian(network: nn.Module, tracks: Tensor) -> Tensor:
    """Differentiate a network.

    Args:
        network: Maps tracks (B, 7) to ends (B, 4).
        tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

    Returns:
        d(x, y, tx, ty)/d(x, y, tx, ty, q/p), (B, 4, 5), mm, 1, MeV.
    """

    def end(state: Tensor, rest: Tensor) -> Tensor:
        result: Tensor = network(torch.cat([state, rest])[None])[0]
        return result

    with warnings.catch_warnings():
        # torch warns of its own use of a deprecated function inside jacfwd, 2.11 as DeprecationWarning.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"torch\..*")
        jacobian: Tensor = vmap(jacfwd(end))(tracks[:, :_NUM_STATE], tracks[:, _NUM_STATE:])
    return jacobian.detach()


def jacobian(run: Path, *, num_tracks: int = 200, checkpoint: str = "best") -> dict[str, Any]:
    """Compare the matrices of a run with those of Runge-Kutta.

    Args:
        run: Run directory.
        num_tracks: Tracks to compare, 2 to 100 GeV.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        For each element with a size worth comparing, the median error relative to the root mean square of the
        element, and the number of tracks.

    Raises:
        UserError: The run or its field cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    network, normalization = task.load_network(config, directory.load_checkpoint(checkpoint), directory)
    tracks = example_tracks(normalization, num_tracks, seed=1).double()
    ours = network_jacobian(network.double(), tracks).numpy()
    x = tracks.numpy()
    truth, theirs = rk4_with_jacobian(
        load_field(config.field).astype(np.float64), x[:, :4], x[:, 4], x[:, 6], x[:, 5], step_mm=_STEP_MM
    )
    return {
        "num_tracks": int(truth.ok.sum()),
        "relative_error": compare_elements(ours[truth.ok], theirs[truth.ok]),
    }


def compare_elements(ours: FloatArray, theirs: FloatArray) -> dict[str, float]:
    """Median error of each element over its root mean square.

    Args:
        ours: Matrices, (B, 4, 5).
        theirs: Matrices to compare with, (B, 4, 5).

    Returns:
        Errors by name, such as `dx/dqop`; 1.
    """
    found = {}
    for i, row in enumerate(ROWS):
        for j, column in enumerate(COLUMNS):
            size = float(np.sqrt(np.mean(theirs[:, i, j] ** 2)))
            found[f"d{row}/d{column}"] = float(np.median(np.abs(ours[:, i, j] - theirs[:, i, j]))) / size
    return found
