"""Formulas: kinematics, decays, processes, detector, selection and the mass plane."""
