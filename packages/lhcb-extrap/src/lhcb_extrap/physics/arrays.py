"""Types shared by the formulas, and the library an array belongs to."""

from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

# numpy.ndarray or torch.Tensor; torch is not imported for the sake of an annotation.
ArrayT = TypeVar("ArrayT", bound=Any)

# Bx, By, Bz at the same points.
Components = tuple[FloatArray, FloatArray, FloatArray]


class Field(Protocol):
    """A magnetic field that can be evaluated anywhere."""

    def __call__(self, x: FloatArray, y: FloatArray, z: FloatArray) -> Components:
        """Return Bx, By, Bz (each of the broadcast shape, T) at x, y, z (mm)."""
        ...


class DifferentiableField(Field, Protocol):
    """A field that also knows its transverse derivatives."""

    def gradient(
        self, x: FloatArray, y: FloatArray, z: FloatArray
    ) -> tuple[Components, Components, Components]:
        """Return B (T), dB/dx and dB/dy (T/mm) at x, y, z (mm)."""
        ...


def array_module(array: object) -> ModuleType:
    """Library of an array; NumPy and PyTorch spell the functions used with it alike.

    Args:
        array: A NumPy array or scalar, a float, or a tensor.

    Returns:
        `numpy` or `torch`.
    """
    if isinstance(array, np.ndarray | np.generic | float):
        return np
    import torch

    return torch
