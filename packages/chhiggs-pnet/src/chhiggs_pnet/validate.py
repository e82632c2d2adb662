"""`chhiggs-pnet validate`: the fast generator beside Pythia, observable by observable.

Both engines make the same samples with the same detector and selection. Every observable is compared by the
Kolmogorov-Smirnov distance of the two distributions and drawn once, all samples side by side. Events that
lack the object of an observable, such as a b jet, are left out of it.

ttX is compared by its component ttZ, since Pythia has no tZq. Two samples are compared with looser cuts,
because what passes all of them is too rare in a full simulation: nonprompt events with loose leptons, diboson
events before the b-tag. Nonprompt events are rare even so, about one in three seconds of a core.

N events.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chhiggs_pnet import plots
from chhiggs_pnet.config import Config
from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.data.summary import NAMES, summarize
from chhiggs_pnet.metrics.two_samples import kolmogorov_smirnov
from chhiggs_pnet.physics.events import Array, Events, Object
from chhiggs_pnet.physics.generator import ENGINES, Engine, Sample, generate_events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS, Channel, Component, Process
from chhiggs_pnet.physics.selection import pair_masses
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, make_directory

POINTS = (MassPoint(100, 95), MassPoint(130, 90), MassPoint(160, 85))
RESULT_FILE = "validation.json"
PROCESSES = ("signal", "diboson", "ttX")
MIN_EVENTS = 20  # with the object of an observable, in both engines; a sample with fewer is left out
# Process: name of the sample, looser cuts.
LOOSE: dict[str, tuple[str, dict[str, object]]] = {
    "nonprompt": ("nonprompt, loose leptons", {"require_tight": False}),
    "diboson": ("diboson, no b-tag", {"num_tagged_min": 0}),
}
Measured = tuple[dict[str, Array], Array]  # observables and weights
# Observable: label, lower and upper end of the picture, number of bins.
OBSERVABLES: dict[str, tuple[str, float, float, int]] = {
    "m1": (r"largest $m_{\mu\mu}$ [GeV]", 70, 110, 40),
    "lepton1_pt": (r"$p_T$ of the first lepton [GeV]", 0, 250, 20),
    "lepton2_pt": (r"$p_T$ of the second lepton [GeV]", 0, 150, 20),
    "lepton3_pt": (r"$p_T$ of the third lepton [GeV]", 0, 80, 20),
    "jet1_pt": (r"$p_T$ of the first jet [GeV]", 0, 300, 20),
    "jet2_pt": (r"$p_T$ of the second jet [GeV]", 0, 200, 20),
    "bjet_pt": (r"$p_T$ of the first b jet [GeV]", 0, 250, 20),
    "jet_eta": (r"$\eta$ of the first jet", -2.5, 2.5, 20),
    "jet_mass": ("mass of the first jet [GeV]", 0, 60, 20),
    "num_jets": ("jets", 1.5, 9.5, 8),
    "num_bjets": ("b-tagged jets", -0.5, 4.5, 5),
    "ht": (r"$H_T$ [GeV]", 0, 700, 20),
    "met": ("missing momentum [GeV]", 0, 250, 20),
    "mt": ("transverse mass [GeV]", 0, 250, 20),
    "mass_leptons": (r"$m_{3\ell}$ [GeV]", 50, 350, 20),
    "pt_leptons": (r"$p_T$ of the leptons together [GeV]", 0, 300, 20),
    "min_dr_leptons": (r"smallest $\Delta R(\ell, \ell)$", 0, 3, 20),
    "min_dr_lepton_bjet": (r"smallest $\Delta R(\ell, b)$", 0, 4, 20),
}  # fmt: skip


def validate(
    config: Config,
    out: Path,
    *,
    num_events: int,
    seed: int,
    channel: str = "Run1E2Mu",
    points: Sequence[MassPoint] = (),
    processes: Sequence[str] = PROCESSES,
) -> dict[str, Any]:
    """Compare the engines.

    Args:
        config: Gives the selection.
        out: Directory of `validation.json` and the pictures.
        num_events: Selected events of each sample and engine.
        seed: Seed of all samples.
        channel: The channel.
        points: Mass points of the signal; `POINTS` if empty.
        processes: What is compared.

    Returns:
        What `validation.json` holds.

    Raises:
        UserError: Pythia is not installed, the channel or a process is unknown, or no event passes.
    """
    if channel not in CHANNELS:
        raise UserError(f"--channel is '{channel}'; choose {' or '.join(CHANNELS)}.")
    named: Channel = CHANNELS[CHANNELS.index(channel)]
    found: dict[str, dict[Engine, Measured]] = {}
    rates: dict[str, dict[Engine, float]] = {}
    wanted = samples(processes, points or POINTS)
    make_directory(out / "figures")  # before the work, not after it
    for name, process, point in wanted:
        selection = config.selection.model_copy(update=LOOSE[process][1] if process in LOOSE else {})
        made = {
            engine: generate_events(
                process, named, num_events, seed, point=point, engine=engine, selection=selection
            )
            for engine in reversed(ENGINES)  # a missing Pythia is noticed before anything is done
        }
        found[name] = {engine: (observables(s.events), s.events.weight) for engine, s in made.items()}
        rates[name] = {engine: rate_fb(sample) for engine, sample in made.items()}
    rows = compare(found)
    result = {"channel": channel, "num_events": num_events, "seed": seed, "rates_fb": rates, "rows": rows}
    for observable, (label, low, high, num_bins) in OBSERVABLES.items():
        panels = {
            name: [present(parts[engine], observable) for engine in ENGINES]
            for name, parts in found.items()
            if is_common(parts, observable)
        }
        if not panels:
            continue
        tests = {r["sample"]: (r["distance"], r["p_value"]) for r in rows if r["observable"] == observable}
        figure = plots.two_engines(panels, np.linspace(low, high, num_bins + 1), label, tests)
        plots.save(figure, out / "figures" / observable)
    atomic_write_json(out / RESULT_FILE, result)
    return result


def samples(
    processes: Sequence[str], points: Sequence[MassPoint]
) -> list[tuple[str, Process | Component, MassPoint | None]]:
    """Name, process and mass point of what is compared."""
    known: dict[str, list[tuple[str, Process | Component, MassPoint | None]]] = {
        "signal": [(f"signal {point.mHc:g}, {point.mA:g}", "signal", point) for point in points],
        "nonprompt": [(LOOSE["nonprompt"][0], "nonprompt", None)],
        "diboson": [(LOOSE["diboson"][0], "diboson", None)],
        "ttX": [("ttZ", "ttZ", None)],
    }
    for name in processes:
        if name not in known:
            raise UserError(f"--processes names '{name}'; choose from {', '.join(known)}.")
    return [sample for name in processes for sample in known[name]]


def rate_fb(sample: Sample) -> float:
    """Cross-section of the selected events in fb."""
    return float(sample.events.weight.sum() * sample.cross_section_fb / sample.num_trials)


def observables(events: Events) -> dict[str, Array]:
    """Compute what is compared.

    Args:
        events: N events.

    Returns:
        Arrays (N,) by the names in `OBSERVABLES`, GeV where they are energies, NaN where an event lacks the
        object.
    """
    nodes, valid_mask = node_features(events)
    m1, m2 = pair_masses(events.kind == Object.MUON, events.pt, events.eta, events.phi, events.charge)
    columns = {"nodes": nodes, "valid_mask": valid_mask, "m1": m1, "m2": m2}
    table = summarize(columns, np.zeros((len(events), 2))).astype(np.float64)
    table[table == -1.0] = np.nan
    rows = np.arange(len(events))
    first = (events.kind == Object.JET).argmax(axis=1)  # objects are in order of kind and pt
    jets = {"jet_eta": events.eta[rows, first], "jet_mass": events.mass[rows, first]}
    return {name: jets[name] if name in jets else table[:, NAMES.index(name)] for name in OBSERVABLES}


def compare(found: Mapping[str, Mapping[Engine, Measured]]) -> list[dict[str, Any]]:
    """Compare all observables of all samples.

    Args:
        found: Observables and weights by sample and engine.

    Returns:
        One row a sample and observable that its events have: Kolmogorov-Smirnov distance and probability,
        mean of each engine.
    """
    rows = []
    for name, parts in found.items():
        for observable in OBSERVABLES:
            if not is_common(parts, observable):
                continue
            (a, a_weight), (b, b_weight) = (present(parts[engine], observable) for engine in ENGINES)
            distance, p_value = kolmogorov_smirnov(a, b, a_weight, b_weight)
            rows.append(
                {
                    "sample": name, "observable": observable, "distance": distance, "p_value": p_value,
                    "mean_fast": float(np.average(a, weights=a_weight)),
                    "mean_pythia": float(np.average(b, weights=b_weight)),
                }
            )  # fmt: skip
    return rows


def present(measured: Measured, observable: str) -> tuple[Array, Array]:
    """Values and weights of the events that have the object of an observable, (M,) each."""
    values, weights = measured[0][observable], measured[1]
    there = np.isfinite(values)
    return values[there], weights[there]


def is_common(parts: Mapping[Engine, Measured], observable: str) -> bool:
    """Tell whether enough events of both engines have the object of an observable."""
    return all(len(present(parts[engine], observable)[0]) >= MIN_EVENTS for engine in ENGINES)


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to the terminal: for each sample the observable that differs most, and the mean distance."""
    out: dict[str, Any] = {}
    for name in result["rates_fb"]:
        rows = [row for row in result["rows"] if row["sample"] == name]
        worst = max(rows, key=lambda row: row["distance"])
        mean = float(np.mean([row["distance"] for row in rows]))
        out[name] = f"mean distance {mean:.3f}, largest {worst['distance']:.3f} ({worst['observable']})"
    return out
