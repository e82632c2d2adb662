"""Photon reconstruction in the MEG II liquid-xenon detector."""

__version__ = "0.1.0"
