"""`jet-foundation transfer`: a pre-trained encoder on the top-tagging or the quark-gluon sample.

The sample is made into a data set beside the run, and with the normalisation of its pre-training the encoder
is trained further to tell the two classes apart.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hep_shared.config import load_config
from hep_shared.errors import UserError
from jet_foundation.config import PRESETS, Config
from jet_foundation.data.foreign import QG_CLASSES, TOP_CLASSES
from jet_foundation.data.preprocess import find_source, preprocess
from jet_foundation.data.schema import FEATURE_SETS
from jet_foundation.data.shards import INDEX_FILE, read_info
from jet_foundation.tasks.common import read_stamp, start_checkpoint
from jet_foundation.train import train

Sample = Literal["top-landscape", "quark-gluon"]
CLASSES: dict[Sample, tuple[str, str]] = {"top-landscape": TOP_CLASSES, "quark-gluon": QG_CLASSES}
LAYOUTS: dict[Sample, str] = {"top-landscape": "top", "quark-gluon": "quark-gluon"}


def transfer(
    start: Path,
    sample: Sample,
    inputs: Sequence[Path],
    out: Path,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    jets_per_class: int | None = None,
    resume: bool = False,
    device: str = "auto",
    command: str = "",
) -> dict[str, Any]:
    """Make a data set of a sample and train the encoder of a run on it.

    Args:
        start: Run directory of a pre-training.
        sample: What the files are.
        inputs: Files of the sample as published, or padded samples.
        out: Run directory; the data set goes into its folder `data`.
        preset: Named configuration.
        overrides: Items `section.field=value` on top.
        jets_per_class: Jets of each class over all splits; None takes as many as there are.
        resume: Continue the run in `out`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        command: Command line, for the record.

    Returns:
        What the training gave.

    Raises:
        UserError: The run or a file cannot be used, or the run needs more than the sample offers.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # all processes would make the same data set
        raise UserError("`jet-foundation transfer` runs in one process; start it without torchrun.")
    needed = read_stamp(start_checkpoint(start)["stamp"])[1].feature_set
    kind = find_source(inputs).kind
    if kind not in (LAYOUTS[sample], "sample"):
        raise UserError(
            f"--input {inputs[0]} has the layout of '{kind}', not of {sample}; give its own files."
        )
    data = out / "data"
    if not (data / INDEX_FILE).exists():
        preprocess(inputs, data, jets_per_class=jets_per_class, classes=CLASSES[sample])
    offered = read_info(data).feature_set
    if FEATURE_SETS.index(needed) > FEATURE_SETS.index(offered):
        raise UserError(
            f"the run {start} reads the feature set '{needed}', but the {sample} files offer '{offered}'; "
            f"pre-train with --set data.feature_set={offered}."
        )
    own = ["task.kind=classification", f"start.run={start}", f"data.path={data}"]
    config = load_config(Config, presets=PRESETS, preset=preset, overrides=[*own, *overrides])
    return train(config, out=out, resume=resume, device=device, command=command)
