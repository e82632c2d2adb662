"""Hard processes and decays of the ten JetClass classes, as Pythia 8 settings.

Each class follows the table of the JetClass paper (H. Qu, C. Li, S. Qian, arXiv:2202.03772, Appendix A), with
Pythia's leading-order matrix elements in the place of MadGraph's: jets recoil against Z → νν or each other.

A class is matched when all decay products of its heavy particle lie within ΔR < 0.8 of the jet.
"""

from dataclasses import dataclass

CLASSES = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")

COMMON = (
    "Print:quiet = on",
    "Beams:eCM = 13000.",
    "Next:numberCount = 0",
    "Random:setSeed = on",
)

_QUARKS = "1 2 3 4 5"
_Z_TO_NEUTRINOS = ("WeakZ0:gmZmode = 2", "23:onMode = off", "23:onIfAny = 12 14 16")
_HZ = ("HiggsSM:ffbar2HZ = on", *_Z_TO_NEUTRINOS, "25:onMode = off")
_TOPS = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off")


@dataclass(frozen=True)
class Process:
    """How one class is generated and recognised.

    Attributes:
        settings: Pythia settings, `|` separated alternatives are generated in equal parts.
        mother: |PDG code| of the heavy particle, 0 for QCD.
        num_quarks: Quarks (or gluons) among its final decay products that the jet must hold.
        num_leptons: Electrons or muons that the jet must hold.
        pt_hat_gev: Range of the hard process's pT.
    """

    settings: tuple[tuple[str, ...], ...]
    mother: int
    num_quarks: int = 0
    num_leptons: int = 0
    pt_hat_gev: tuple[float, float] = (470.0, 1050.0)


def _higgs(*decay: str) -> tuple[tuple[str, ...], ...]:
    return ((*_HZ, *decay),)


PROCESSES: dict[str, Process] = {
    "QCD": Process(
        (
            (
                "WeakBosonAndParton:qqbar2gmZg = on",
                "WeakBosonAndParton:qg2gmZq = on",
                *_Z_TO_NEUTRINOS,
            ),
        ),
        mother=0,
    ),
    "Hbb": Process(_higgs("25:onIfMatch = 5 -5"), mother=25, num_quarks=2),
    "Hcc": Process(_higgs("25:onIfMatch = 4 -4"), mother=25, num_quarks=2),
    "Hgg": Process(_higgs("25:onIfMatch = 21 21"), mother=25, num_quarks=2),
    "H4q": Process(
        _higgs("25:onIfMatch = 24 -24", "24:onMode = off", f"24:onIfAny = {_QUARKS}"),
        mother=25,
        num_quarks=4,
    ),
    "Hqql": Process(
        tuple(
            (
                *_HZ,
                "25:onIfMatch = 24 -24",
                "24:onMode = off",
                f"24:{quarks} = {_QUARKS}",
                f"24:{leptons} = 11 13",
            )
            for quarks, leptons in (("onPosIfAny", "onNegIfAny"), ("onNegIfAny", "onPosIfAny"))
        ),
        mother=25,
        num_quarks=2,
        num_leptons=1,
        pt_hat_gev=(500.0, 1200.0),
    ),
    "Zqq": Process(
        (
            (
                "WeakDoubleBoson:ffbar2gmZgmZ = on",
                "WeakZ0:gmZmode = 2",
                "23:onMode = off",
                f"23:onIfAny = {_QUARKS}",
            ),
        ),
        mother=23,
        num_quarks=2,
    ),
    "Wqq": Process(
        (("WeakDoubleBoson:ffbar2ZW = on", *_Z_TO_NEUTRINOS, "24:onMode = off", f"24:onIfAny = {_QUARKS}"),),
        mother=24,
        num_quarks=2,
    ),
    "Tbqq": Process(((*_TOPS, f"24:onIfAny = {_QUARKS}"),), mother=6, num_quarks=3),
    "Tbl": Process(
        ((*_TOPS, "24:onIfAny = 11 13"),), mother=6, num_quarks=1, num_leptons=1, pt_hat_gev=(500.0, 1200.0)
    ),
}
