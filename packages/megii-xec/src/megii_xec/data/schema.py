"""Names, shapes and units of the branches in a photon tree.

The layout is the one the MEG II machine-learning samples use: one TTree called `tree`, one row per
triggered event, 4760 sensors per row. Scalars are rank 0 on disk. Missing sensor values are stored as 1e10.

Every other module takes branch names from here; a name on disk appears nowhere else.
"""

from dataclasses import dataclass
from typing import Literal

TREE = "tree"
NUM_SENSORS = 4760
MISSING = 1.0e10  # value of a sensor without a measurement
INVALID_ABOVE = 9.0e9  # anything larger counts as missing; leaves room for float32 rounding of MISSING


@dataclass(frozen=True)
class Branch:
    """One branch of the tree.

    Attributes:
        name: Name on disk.
        shape: Shape of one entry; `()` for a scalar.
        dtype: NumPy type code on disk.
        unit: Physical unit, "1" where dimensionless.
        role: `input` for sensors, `truth` only in simulation, `reco` from the conventional reconstruction,
            `id` for bookkeeping.
        text: What it holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["i4", "i2", "f4"]
    unit: str
    role: Literal["input", "truth", "reco", "id"]
    text: str


RUN = Branch("run", (), "i4", "1", "id", "run number")
EVENT = Branch("event", (), "i4", "1", "id", "event number within the run")

NPHO = Branch("npho", (NUM_SENSORS,), "f4", "photons", "input", "photons on the sensor (p.e. / PDE x gain)")
NPHE = Branch("nphe", (NUM_SENSORS,), "f4", "p.e.", "truth", "photoelectrons")
TIME = Branch("time", (NUM_SENSORS,), "f4", "s", "input", "pulse time of the sensor")
RELATIVE_NPHO = Branch("relative_npho", (NUM_SENSORS,), "f4", "1", "input", "npho / npho_max_used")
RELATIVE_TIME = Branch("relative_time", (NUM_SENSORS,), "f4", "s", "input", "time - time_min_used")
SOLID_ANGLE = Branch("solid_angle", (NUM_SENSORS,), "f4", "sr", "truth", "solid angle seen from xyzTruth")
CH_NPHO_MAX = Branch("ch_npho_max", (), "i2", "1", "input", "sensor with the largest npho")
CH_TIME_MIN = Branch("ch_time_min", (), "i2", "1", "input", "sensor with the earliest time above 50 p.e.")
NPHO_MAX_USED = Branch("npho_max_used", (), "f4", "photons", "input", "largest npho of the event")
TIME_MIN_USED = Branch("time_min_used", (), "f4", "s", "input", "earliest sensor time above 50 p.e.")

XYZ_TRUTH = Branch("xyzTruth", (3,), "f4", "cm", "truth", "first interaction point")
XYZ_VERTEX = Branch("xyzVTX", (3,), "f4", "cm", "truth", "origin of the photon on the target")
EMI_VEC = Branch("emiVec", (3,), "f4", "1", "truth", "unit vector from xyzVTX to xyzTruth")
EMI_ANG = Branch("emiAng", (2,), "f4", "deg", "truth", "theta and phi of emiVec")
UVW_TRUTH = Branch("uvwTruth", (3,), "f4", "cm", "truth", "first interaction point in u, v, w")
ENERGY_TRUTH = Branch("energyTruth", (), "f4", "GeV", "truth", "photon energy")
TIME_TRUTH = Branch("timeTruth", (), "f4", "ns", "truth", "photon time at xyzTruth, trigger offset included")
# Beyond the published layout: only simulation knows it, and files without it serve for everything else.
NUM_GAMMA = Branch("numGamma", (), "i2", "1", "truth", "photons in the readout window, pile-up included")

XYZ_RECO_FI = Branch("xyzRecoFI", (3,), "f4", "cm", "reco", "conventional position")
XYZ_RECO_LC = Branch("xyzRecoLC", (3,), "f4", "cm", "reco", "conventional position, local fit")
UVW_RECO_FI = Branch("uvwRecoFI", (3,), "f4", "cm", "reco", "conventional position in u, v, w")
UVW_RECO_LC = Branch("uvwRecoLC", (3,), "f4", "cm", "reco", "conventional position in u, v, w, local fit")
ENERGY_RECO = Branch("energyReco", (), "f4", "GeV", "reco", "conventional energy")
TIME_RECO = Branch("timeReco", (), "f4", "ns", "reco", "conventional time")

BRANCHES: tuple[Branch, ...] = (
    RUN, EVENT,
    NPHO, NPHE, TIME, RELATIVE_NPHO, RELATIVE_TIME, SOLID_ANGLE,
    CH_NPHO_MAX, CH_TIME_MIN, NPHO_MAX_USED, TIME_MIN_USED,
    XYZ_TRUTH, XYZ_VERTEX, EMI_VEC, EMI_ANG, UVW_TRUTH, ENERGY_TRUTH, TIME_TRUTH, NUM_GAMMA,
    XYZ_RECO_FI, XYZ_RECO_LC, UVW_RECO_FI, UVW_RECO_LC, ENERGY_RECO, TIME_RECO,
)  # fmt: skip
BY_NAME: dict[str, Branch] = {branch.name: branch for branch in BRANCHES}

# Real-data files carry neither truth nor photoelectrons.
REAL_DATA: tuple[Branch, ...] = tuple(branch for branch in BRANCHES if branch.role != "truth")
