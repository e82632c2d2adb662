"""`fourtop-tokens tokenize` and `compare-tokens`: binned files, and how two of them differ."""

from pathlib import Path
from typing import Any

from fourtop_tokens import __version__, plots
from fourtop_tokens.data.events import Units, read_events
from fourtop_tokens.data.tokenizer import Binning, EdgeMode, FitOn, PhiMode, Vocabulary
from fourtop_tokens.data.tokens import compare_tokens, read_tokens
from fourtop_tokens.data.writer import write_tokens
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, make_directory, sha256_of


def tokenize(
    input_: Path,
    output: Path,
    *,
    num_bins: int = 5,
    with_energy: bool = False,
    phi_mode: PhiMode = "full",
    edge_mode: EdgeMode = "quantile",
    fit_on: FitOn = "all",
    units: Units = "gev",
) -> dict[str, Any]:
    """Bin a file; edges come from its train split.

    Args:
        input_: File in the public format.
        output: Binned HDF5 file to write.
        num_bins: Bins of each quantity.
        with_energy: Bin E too.
        phi_mode: How azimuths are binned.
        edge_mode: `quantile` or `legacy`.
        fit_on: Train events whose objects give the edges.
        units: Unit of energies in the input.

    Returns:
        File, events and vocabulary.

    Raises:
        UserError: The input cannot be used, or the output is the input.
    """
    if output.resolve() == input_.resolve():
        raise UserError(f"--output {output} is the input file; choose another name.")
    splits = read_events(input_, units=units)
    binning = Binning.fit(
        splits["train"], num_bins=num_bins, with_energy=with_energy, phi_mode=phi_mode, edge_mode=edge_mode,
        fit_on=fit_on,
    )  # fmt: skip
    tokens = {split: binning.transform(events) for split, events in splits.items()}
    write_tokens(
        output,
        tokens,
        {split: events.labels for split, events in splits.items()},
        num_bins=num_bins,
        vocab_size=binning.vocabulary.size,
        binning=binning.to_json(),
        provenance={
            "producer": f"fourtop_tokens {__version__}",
            "input": str(input_),
            "input_sha256": sha256_of(input_),
        },
    )
    num_events = sum(len(table) for table in tokens.values())
    return {"output": output, "num_events": num_events, "vocab_size": binning.vocabulary.size}


def compare(
    ours: Path, theirs: Path, out: Path, *, num_bins: int = 5, with_energy: bool = False
) -> dict[str, Any]:
    """Compare two binned files.

    Args:
        ours: Binned file.
        theirs: Another one, which may have other splits.
        out: Directory for `comparison.json` and the pictures.
        num_bins: Bins of both.
        with_energy: Whether both bin E.

    Returns:
        Overlap of the vocabularies, agreement of events, distance of each field's distribution.

    Raises:
        UserError: A file cannot be used.
    """
    vocabulary = Vocabulary(num_bins=num_bins, with_energy=with_energy)
    result = compare_tokens(read_tokens(ours, vocabulary), read_tokens(theirs, vocabulary), vocabulary)
    make_directory(out)
    atomic_write_json(out / "comparison.json", {"ours": ours, "theirs": theirs, **result})
    plots.save(plots.token_comparison(result["distributions"]), out / "comparison")
    events = result["events"] or {}
    return {
        "output": out,
        "vocabulary_overlap": result["vocabulary"]["overlap"],
        "matched_events": events.get("num_events", 0),
        "equal_tokens": events.get("tokens"),
        "total_variation": {
            name: found["total_variation"] for name, found in result["distributions"].items()
        },
    }
