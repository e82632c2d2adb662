"""Names on disk: the two ROOT layouts that are written, and the columns of the store.

What is read is described by a branch map (`branch_maps/*.toml`), so that other layouts need no code; the two
maps that ship with the package agree with the layouts here, which a test holds.

N events, P = `NUM_NODES` nodes, F = number of features.
"""

from dataclasses import dataclass
from typing import Literal

from chhiggs_pnet.physics.events import MAX_OBJECTS

TREE = "Events"
Layout = Literal["flat", "nanoaod"]
LAYOUTS: tuple[Layout, ...] = ("flat", "nanoaod")

ERAS = ("2016preVFP", "2016postVFP", "2017", "2018", "2022", "2022EE", "2023", "2023BPix")
CLASSES = ("signal", "nonprompt", "diboson", "ttX")

# Collections: column of `Events` or a quantity derived from it -> (field on disk, type on disk).
Field = tuple[str, str]
_FLAT_P4: dict[str, Field] = {
    "pt": ("Pt", "float32"),
    "eta": ("Eta", "float32"),
    "phi": ("Phi", "float32"),
    "mass": ("Mass", "float32"),
    "charge": ("Charge", "int32"),
}
_NANO_P4: dict[str, Field] = {name: (name, kind) for name, (_, kind) in _FLAT_P4.items()}
COLLECTIONS: dict[Layout, dict[str, dict[str, Field]]] = {
    "flat": {
        "Muon": {**_FLAT_P4, "tight": ("IsTight", "bool")},
        "Electron": {**_FLAT_P4, "tight": ("IsTight", "bool")},
        "Jet": {**_FLAT_P4, "btag": ("BtagScore", "float32"), "tagged": ("IsBtagged", "bool")},
    },
    "nanoaod": {
        "Muon": {
            **_NANO_P4, "loose": ("looseId", "bool"), "tight": ("tightId", "bool"),
            "isolation": ("miniPFRelIso_all", "float32"),
        },
        "Electron": {
            **_NANO_P4, "loose": ("convVeto", "bool"), "tight": ("mvaNoIso_WP90", "bool"),
            "isolation": ("miniPFRelIso_all", "float32"),
        },
        "Jet": {
            **{name: field for name, field in _NANO_P4.items() if name != "charge"},
            "btag": ("btagDeepFlavB", "float32"), "jet_id": ("jetId", "int32"),
        },
    },
}  # fmt: skip
# Columns of `Events`; the others are factors of the weight that are 1 in simulated files.
SCALARS: dict[Layout, dict[str, Field]] = {
    "flat": {
        "run": ("run", "int64"), "lumi": ("lumi", "int64"), "event": ("event", "int64"),
        "met_pt": ("METvPt", "float32"), "met_phi": ("METvPhi", "float32"),
        "weight": ("genWeight", "float64"),
        "unit_1": ("puWeight", "float32"), "unit_2": ("prefireWeight", "float32"),
    },
    "nanoaod": {
        "run": ("run", "int64"), "lumi": ("luminosityBlock", "int64"), "event": ("event", "int64"),
        "met_pt": ("PuppiMET_pt", "float32"), "met_phi": ("PuppiMET_phi", "float32"),
        "weight": ("genWeight", "float64"), "unit_1": ("L1PreFiringWeight_Nom", "float32"),
    },
}  # fmt: skip

JET_ID = 6  # passes the tight identification in NanoAOD
ISOLATION_IF_TIGHT, ISOLATION_IF_LOOSE = 0.03, 0.3  # what the simulation writes, on both sides of 0.1


def branch_name(layout: Layout, collection: str, field: str) -> str:
    """Return the branch of a field of a collection, such as `MuonPtColl` or `Muon_pt`."""
    return f"{collection}{field}Coll" if layout == "flat" else f"{collection}_{field}"


def counter_name(layout: Layout, collection: str) -> str:
    """Return the branch with the number of objects, `nMuons` or `nMuon`."""
    return f"n{collection}s" if layout == "flat" else f"n{collection}"


STORE_VERSION = 1
NUM_NODES = MAX_OBJECTS + 1  # the last node of an event is the missing momentum
# cms9 is what the CMS analysis feeds its network; ext14 appends collider coordinates and the b-tag score.
EXT14 = (
    "energy", "px", "py", "pz", "charge", "is_muon", "is_electron", "is_jet", "is_bjet",
    "pt", "eta", "phi", "mass", "btag",
)  # fmt: skip
FEATURE_SETS: dict[str, tuple[str, ...]] = {"cms9": EXT14[:9], "ext14": EXT14}


@dataclass(frozen=True)
class Column:
    """One column of the store.

    Attributes:
        name: Name of its file, without suffix.
        dtype: NumPy type.
        shape: Shape of one event.
        unit: Physical unit, "1" where dimensionless.
        text: What it holds.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    unit: str
    text: str


COLUMNS: tuple[Column, ...] = (
    Column("nodes", "<f4", (NUM_NODES, len(EXT14)), "GeV, rad, 1", "features `EXT14` of each node"),
    Column("valid_mask", "|b1", (NUM_NODES,), "1", "True where a node is real"),
    Column("label", "|i1", (), "1", "index into `CLASSES`"),
    Column("weight", "<f8", (), "fb", "rate that the event stands for; may be negative"),
    Column("fold", "|i1", (), "1", "hash of run, lumi and event modulo the number of folds"),
    Column("channel", "|i1", (), "1", "index into `CHANNELS`"),
    Column("era", "|i1", (), "1", "index into `ERAS`"),
    Column("m1", "<f4", (), "GeV", "largest opposite-sign muon pair mass"),
    Column("m2", "<f4", (), "GeV", "second largest, -1 if there is one pair only"),
    Column("run", "<i8", (), "1", "run number"),
    Column("lumi", "<i8", (), "1", "luminosity block"),
    Column("event", "<i8", (), "1", "event number"),
)
