"""`chhiggs-pnet report`: runs side by side in one HTML page that needs nothing beside it.

Every number is from the runs' `evaluation_*.json`, `stages.json` and `heatmap.json`, and from comparisons
given with `--comparison`; pictures are embedded.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from chhiggs_pnet.data.schema import CLASSES
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text, reader_boundary
from hep_shared.run import RunDir

FIGURES = {  # and what they show
    "training_curves": "Loss, AUC of every validation point and learning rate by epoch.",
    "roc": "Background against signal efficiency, one curve a mass point.",
    "auc_by_point": "AUC and signal efficiency of every mass point, 68 % intervals.",
    "scores": "Likelihood ratio of the classes at the first training point.",
    "reliability": "Fraction of signal against the predicted probability, one line a mass point.",
    "pair_mass": "Pair mass of the backgrounds after cuts on the score: a fit wants all three alike.",
    "heatmap_auc": "AUC over the mass plane.",
    "heatmap_efficiency": "Signal efficiency at a background efficiency of 1 % over the mass plane.",
    "heatmap_misspecified": "AUC of one true signal under the hypothesis of each cell.",
}
WIDE = "training_curves"  # takes the width of the page


def report(runs: Sequence[Path], out: Path, *, comparisons: Sequence[Path] = ()) -> dict[str, object]:
    """Write the page.

    Args:
        runs: Run directories that were evaluated.
        out: HTML file.
        comparisons: Files `compare_*.json`.

    Returns:
        The file, the number of runs and of comparisons.

    Raises:
        UserError: A run was not evaluated.
    """
    environment = Environment(
        loader=PackageLoader("chhiggs_pnet", "templates"), autoescape=True, undefined=StrictUndefined
    )
    entries = [describe(run) for run in runs]
    page = environment.get_template("report.html").render(
        runs=entries, comparisons=[read_comparison(path) for path in comparisons], backgrounds=CLASSES[1:]
    )
    atomic_write_text(out, page)
    return {"output": out, "num_runs": len(entries), "num_comparisons": len(comparisons)}


def describe(path: Path) -> dict[str, Any]:
    """Collect what the page shows of one run."""
    run = RunDir.open(path)
    evaluations = sorted(path.glob("evaluation_*.json"))
    if not evaluations:
        raise UserError(f"{path} was not evaluated; run `chhiggs-pnet evaluate --run {path}` first.")
    stages = path / "stages.json"
    return {
        "name": path.name,
        "evaluations": [read(file, "evaluate the run again") for file in evaluations],
        "stages": read(stages, "train the run again") if stages.exists() else None,
        "figures": [
            {"name": name, "caption": caption, "wide": name == WIDE, "data": data}
            for name, caption in FIGURES.items()
            for data in embedded(path, name)
        ],
        "config": json.dumps(run.config, indent=2),
        "epochs": len(run.history()),
    }


def read_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison with its picture."""
    found = read(path, "run `chhiggs-pnet compare` again")
    picture = path.with_suffix(".png")
    return {**found, "figure": as_data(picture) if picture.exists() else None}


def read(file: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON file of a run."""
    with reader_boundary(file, remedy=remedy):
        found: dict[str, Any] = json.loads(file.read_text())
    return found


def embedded(path: Path, name: str) -> list[str]:
    """Pictures of that name as data addresses, one a split that has it."""
    found = sorted((path / "figures").glob(f"*_{name}.png"))
    return [as_data(file) for file in found or [path / "figures" / f"{name}.png"] if file.exists()]


def as_data(file: Path) -> str:
    """A picture as a data address."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
