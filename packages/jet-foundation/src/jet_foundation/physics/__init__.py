"""Kinematics, pair features, detector, jets and generators: formulas without any network."""
