"""Names, units and types of the branches of a JetClass file.

One TTree called `tree`, one row per jet. Particle branches hold one number per constituent, by falling pT;
label branches hold a one-hot class in mixed types (bool, int32, float32), so they are read by name and cast.

Every other module takes branch names from here; a name on disk appears nowhere else.
"""

from dataclasses import dataclass
from typing import Literal

from jet_foundation.physics.processes import CLASSES

TREE = "tree"
MAX_PARTICLES = 128  # the length to which JetClass trainings pad; longer jets lose their softest particles
FeatureSet = Literal["kin", "kinpid", "full"]
FEATURE_SETS: tuple[FeatureSet, ...] = ("kin", "kinpid", "full")


@dataclass(frozen=True)
class Branch:
    """One branch of the tree.

    Attributes:
        name: Name on disk.
        level: `particle`, `jet`, or `label`.
        dtype: NumPy type code on disk.
        unit: Physical unit, "1" where dimensionless.
        text: What it holds.
    """

    name: str
    level: Literal["particle", "jet", "label"]
    dtype: str
    unit: str
    text: str


def _particle(name: str, unit: str, text: str, dtype: str = "f4") -> Branch:
    return Branch(f"part_{name}", "particle", dtype, unit, text)


def _jet(name: str, unit: str, text: str) -> Branch:
    return Branch(name, "jet", "f4", unit, text)


MOMENTUM = (
    _particle("energy", "GeV", "energy"),
    _particle("px", "GeV", "momentum, x"),
    _particle("py", "GeV", "momentum, y"),
    _particle("pz", "GeV", "momentum, z"),
)
POSITION = (
    _particle("deta", "1", "η relative to the jet, times the sign of the jet's η"),
    _particle("dphi", "rad", "φ relative to the jet"),
)
IDENTITY = (
    _particle("charge", "e", "electric charge"),
    _particle("isChargedHadron", "1", "is a charged hadron", "i4"),
    _particle("isNeutralHadron", "1", "is a neutral hadron", "i4"),
    _particle("isPhoton", "1", "is a photon", "i4"),
    _particle("isElectron", "1", "is an electron", "i4"),
    _particle("isMuon", "1", "is a muon", "i4"),
)
DISPLACEMENT = (
    _particle("d0val", "mm", "transverse impact parameter"),
    _particle("d0err", "mm", "its uncertainty"),
    _particle("dzval", "mm", "longitudinal impact parameter"),
    _particle("dzerr", "mm", "its uncertainty"),
)
JET = (
    _jet("jet_pt", "GeV", "transverse momentum"),
    _jet("jet_eta", "1", "pseudorapidity"),
    _jet("jet_phi", "rad", "azimuth"),
    _jet("jet_energy", "GeV", "energy"),
    _jet("jet_nparticles", "1", "number of constituents"),
    _jet("jet_sdmass", "GeV", "soft-drop mass"),
    *(_jet(f"jet_tau{n}", "1", f"{n}-subjettiness") for n in range(1, 5)),
)
AUX = (
    _jet("aux_genpart_eta", "1", "η of the heavy particle"),
    _jet("aux_genpart_phi", "rad", "φ of the heavy particle"),
    _jet("aux_genpart_pid", "1", "its PDG code"),
    _jet("aux_genpart_pt", "GeV", "its transverse momentum"),
    _jet("aux_truth_match", "1", "1 where the jet holds its whole decay"),
)
LABELS = tuple(Branch(f"label_{name}", "label", "f4", "1", f"is {name}") for name in CLASSES)

BRANCHES: tuple[Branch, ...] = (*MOMENTUM, *POSITION, *IDENTITY, *DISPLACEMENT, *JET, *AUX, *LABELS)


def scalar_name(branch: Branch) -> str:
    """Name that a jet-level branch has among the scalars of `Jets`.

    Args:
        branch: A branch of `JET` or `AUX`.

    Returns:
        The name without its prefix.
    """
    return branch.name.split("_", 1)[1]
