"""Numbers that say how good a classifier is: discrimination, calibration, dependence, comparison."""
