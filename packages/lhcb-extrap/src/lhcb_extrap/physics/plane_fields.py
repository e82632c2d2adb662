r"""The field on a few planes between two fixed ones, as polynomials in x and y.

    B(x, y, z_k) = sum over i + j <= 6 of c_ij (x/X_k)^i (y/Y_k)^j,    |x| <= X_k, |y| <= Y_k,

with z_k the nodes of a Gauss-Legendre rule of eight points. X_k and Y_k are the edges of a cone that is a
little wider than the acceptance of LHCb, 300 mrad by 250 mrad; beyond them the field of the edge holds. A
processor evaluates a polynomial of known coefficients many times faster than it looks up a map, because
nothing has to be fetched from a place that depends on the track.

Dimension legend: N tracks, K nodes, T terms.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import ArrayT, Field, FloatArray, array_module
from lhcb_extrap.physics.field_properties import FieldIntegral

NUM_NODES = 8
DEGREE = 6
TERMS = tuple((i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i))
_SLOPE_X, _SLOPE_Y = 0.4, 0.3
_MIN_HALF_MM = 300.0
_GRID = 21  # points a side of the fit
# Powers of x and y that the mirror symmetries of an ideal dipole allow: parity of Bx, By, Bz.
_PARITY_X, _PARITY_Y = (1, 0, 0), (1, 0, 1)


def _rule() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Nodes and weights on [0, 1], and what integrates from 0 to each node."""
    nodes, weights = legendre.leggauss(NUM_NODES)
    nodes, weights = (nodes + 1) / 2, weights / 2
    powers = np.arange(NUM_NODES)
    integrals = nodes[:, None] ** (powers + 1) / (powers + 1)
    return nodes, weights, integrals @ np.linalg.inv(nodes[:, None] ** powers)


NODES, WEIGHTS, INTEGRALS = _rule()


@dataclass(frozen=True)
class PlaneFields:
    """Field between two planes.

    Attributes:
        integral: Integral of By on the axis from the start to each node and to the end, (K + 1,), T mm.
        half_mm: X_k and Y_k, (2, K), mm.
        coefficients: c of Bx, By, Bz, (3, T, K), T; those that a symmetry forbids are zero.
    """

    integral: NDArray[np.float64]
    half_mm: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    @classmethod
    def fit(
        cls, field: Field, axis: FieldIntegral, z0_mm: float, dz_mm: float, *, flip_x: bool, flip_y: bool
    ) -> "PlaneFields":
        """Fit the polynomials to a field, by least squares on a grid of points.

        Args:
            field: Magnetic field.
            axis: Integral of its By along the beam.
            z0_mm: First plane.
            dz_mm: Distance of the second; negative lies before it.
            flip_x: Whether Bx is odd in x, By and Bz even.
            flip_y: Whether Bx and Bz are odd in y, By even.

        Returns:
            The polynomials.
        """
        z = z0_mm + dz_mm * NODES
        half = np.maximum(np.stack([_SLOPE_X * z, _SLOPE_Y * z]), _MIN_HALF_MM)
        side = np.linspace(-1.0, 1.0, _GRID)
        x, y = (part.ravel() for part in np.meshgrid(side, side, indexing="ij"))
        monomials = np.stack([x**i * y**j for i, j in TERMS], axis=1)
        found = np.zeros((3, len(TERMS), NUM_NODES))
        for node in range(NUM_NODES):
            values = field(x * half[0, node], y * half[1, node], np.full_like(x, z[node]))
            for component, value in enumerate(values):
                allowed = [
                    number
                    for number, (i, j) in enumerate(TERMS)
                    if not (flip_x and (i + _PARITY_X[component]) % 2)
                    and not (flip_y and (j + _PARITY_Y[component]) % 2)
                ]
                solution = np.linalg.lstsq(monomials[:, allowed], np.asarray(value, np.float64), rcond=None)
                found[component, allowed, node] = solution[0]
        start = axis(np.array([z0_mm]))
        return cls(axis(np.append(z, z0_mm + dz_mm)) - start, half, found)

    def off_axis(self, x: ArrayT, y: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT]:
        """Field at the nodes, less By on the axis, which `integral` has.

        Args:
            x: Positions of each track at each node, (N, K), mm; NumPy arrays or tensors.
            y: Likewise.

        Returns:
            Bx, By - By(0, 0), Bz, (N, K), T.
        """
        lib = array_module(x)

        def constant(values: FloatArray) -> Any:
            if lib is np:
                return values.astype(x.dtype)
            return lib.as_tensor(values, dtype=x.dtype, device=x.device)

        scaled = [lib.clip(r / constant(h), -1.0, 1.0) for r, h in zip((x, y), self.half_mm, strict=True)]
        powers = []
        for s in scaled:
            found = [lib.ones_like(s), s]
            while len(found) <= DEGREE:
                found.append(found[-1] * s)
            powers.append(found)
        totals = []
        for component in range(3):
            total: Any = 0.0 * x
            for number, (i, j) in enumerate(TERMS):
                c = self.coefficients[component, number]
                if c.any() and (component, i, j) != (1, 0, 0):
                    total = total + constant(c) * powers[0][i] * powers[1][j]
            totals.append(cast(ArrayT, total))
        return totals[0], totals[1], totals[2]
