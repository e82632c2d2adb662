"""One mass-parametric ParticleNet for charged-Higgs searches in t -> H+ b, H+ -> W A, A -> mu mu."""

__version__ = "0.1.0"
