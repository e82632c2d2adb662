r"""Units and constants of the package.

Lengths are in mm, fields in T, momenta p in GeV where a person reads them and q/p in 1/MeV inside a state,
as in the LHCb software. In these units the equations of motion contain

    kappa = 0.299792458 (q/p)[1/MeV]        in 1/(mm T),

because a unit charge of momentum p moves on a circle of radius R[m] = p[GeV] / (0.299792458 B[T]) and both
1 m = 1e3 mm and 1 GeV = 1e3 MeV. The number 2.99792458e-4 belongs to q/p in 1/GeV. Used with 1/MeV it makes
every track straighter by a factor of a thousand, and nothing looks wrong: an extrapolator trained on such
tracks learns straight lines and reports micrometres. The bending test in `tests/physics/test_equations.py`
guards against it.
"""

C_LIGHT_GEV_PER_T_M = 0.299792458  # p[GeV] = 0.299792458 B[T] R[m]; exact, from the SI value of c
KAPPA_PER_QOP = 0.299792458  # kappa[1/(mm T)] per (q/p)[1/MeV]; see above
MEV_PER_GEV = 1.0e3
MM_PER_M = 1.0e3

MU0_OVER_4PI_T_MM_PER_A = 1.0e-4  # 1e-7 T m/A; CODATA 2022 differs from 4 pi 1e-7 by 1.3e-10 relative

SLOPE_ARM_MM = 3000.0  # a slope error moves a track by that much over the stations behind the magnet

# Last plane of the Upstream Tracker and first plane of the tracking stations behind the magnet.
UT_Z_MM = 2665.0
T_STATION_Z_MM = 7826.0
