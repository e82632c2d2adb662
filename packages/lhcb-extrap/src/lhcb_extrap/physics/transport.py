r"""Transport of whole samples of tracks, by the compiled operator where it is installed, else by NumPy.

The path of each track is cut into `NUM_PLANES` equal pieces. Between two planes the track is stepped without
any check; at every plane it is compared with the acceptance, and a track outside is lost. Checking at fixed
planes instead of after each step makes the fate of a track, and so the whole sample, the same whichever
implementation moved it: both compute the same steps and agree to 1e-9 mm.
"""

import importlib.util
import os
from functools import partial
from typing import Literal

import numpy as np

from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.field_map import FieldMap
from lhcb_extrap.physics.propagation import DEFAULT_ACCEPTANCE, Acceptance, Propagation, Status
from lhcb_extrap.physics.runge_kutta import rk4, rkn4

Method = Literal["rk4", "rkn4"]
Backend = Literal["native", "numpy"]

NUM_PLANES = 8  # 500 mm apart over 4 m; part of the definition of a sample
_EVERYWHERE = Acceptance(np.inf, np.inf, np.inf)
_LOOKUPS_PER_STEP = {"rk4": 4, "rkn4": 2}


def native_backend() -> Backend:
    """Tell which implementation `transport` will use, without importing torch where it is not needed.

    Returns:
        `native` where `hep-shared-cuda` is installed and has the operator, otherwise `numpy`.
    """
    if os.environ.get("HEP_SHARED_KERNELS", "auto") == "reference":
        return "numpy"
    if any(
        importlib.util.find_spec(name) is None
        for name in ("hep_shared_cuda", "hep_shared.ops", "hep_shared.ops.propagate")
    ):
        return "numpy"
    from hep_shared.ops import _backend

    return "numpy" if _backend.backend() == "reference" else "native"


def transport(
    field: FieldMap,
    state: FloatArray,
    qop: FloatArray,
    z0: FloatArray,
    dz: FloatArray,
    *,
    num_steps: int,
    method: Method = "rk4",
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
    backend: Backend | None = None,
) -> Propagation:
    """Move tracks to z0 + dz.

    Args:
        field: Field map.
        state: x, y, tx, ty, (N, 4) float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, (N,), mm.
        dz: How far to go along z, (N,), mm.
        num_steps: Steps over the whole path, rounded up to a multiple of `NUM_PLANES`.
        method: Stepping method.
        acceptance: Where a track may be at a plane.
        backend: Implementation; None for the fastest that is there.

    Returns:
        The states at the end, and the fate of each track.

    Raises:
        ValueError: A shape, the dtype or the number of steps does not fit.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps is {num_steps}, which must be at least 1")
    per_piece = -(-num_steps // NUM_PLANES)
    if (backend or native_backend()) == "native":
        move = _native_mover(field, method, per_piece)
    else:
        stepper = rk4 if method == "rk4" else rkn4
        numpy_step = partial(stepper, field, num_steps=per_piece, acceptance=_EVERYWHERE)

        def move(s: FloatArray, q: FloatArray, z: FloatArray, h: FloatArray) -> FloatArray:
            return numpy_step(s, q, z, h).state

    status = acceptance.classify(state.T)
    status[~np.isfinite(qop + z0 + dz)] = Status.NOT_FINITE
    alive = np.flatnonzero(status == Status.OK)
    current = state[alive]
    for plane in range(NUM_PLANES):
        if not alive.size:
            break
        piece = dz[alive] / NUM_PLANES
        current = move(current, qop[alive], z0[alive] + plane * piece, piece)
        status[alive] = acceptance.classify(current.T)
        keep = status[alive] == Status.OK
        alive, current = alive[keep], current[keep]
    end = np.full_like(state, np.nan)
    end[alive] = current
    lookups = np.full(len(state), NUM_PLANES * per_piece * _LOOKUPS_PER_STEP[method], np.int32)
    return Propagation(end, status, lookups)


def _native_mover(field: FieldMap, method: Method, num_steps: int):  # type: ignore[no-untyped-def]
    """Function (state, qop, z, dz) -> state on `hep_shared.ops.propagate`; all arrays float64."""
    import torch

    from hep_shared.ops.propagate import propagate

    grid, origin, spacing = operator_grid(field)

    def move(s: FloatArray, q: FloatArray, z: FloatArray, h: FloatArray) -> FloatArray:
        rows = torch.from_numpy(np.concatenate([s, q[:, None]], axis=1))
        with torch.no_grad():
            end = propagate(
                rows, torch.from_numpy(z), torch.from_numpy(h), grid, origin, spacing,
                num_steps=num_steps, method=method,
            )  # fmt: skip
        moved: FloatArray = end[:, :4].contiguous().numpy()
        return moved

    return move


def operator_grid(field: FieldMap, dtype: str = "float64"):  # type: ignore[no-untyped-def]
    """Arrange a map as the operator takes it.

    Args:
        field: Field map.
        dtype: Name of the precision of the values.

    Returns:
        Bx, By, Bz as a tensor (X, Y, Z, 3) that shares the map's memory order, T; origin and spacing, mm.
    """
    import torch

    values = torch.from_numpy(field.values).to(getattr(torch, dtype))
    return values[..., :3].permute(2, 1, 0, 3), list(field.grid.origin_mm), list(field.grid.spacing_mm)
