"""Neural and classical extrapolation of charged tracks through a dipole magnet."""

__version__ = "0.1.0"
