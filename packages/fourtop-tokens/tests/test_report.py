import csv
import json
import re

import pytest

from fourtop_tokens import plots
from fourtop_tokens.report import report
from hep_shared.errors import UserError


@pytest.fixture(scope="module")
def runs(tiny_config, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for tokens in ("identity", "binned"):
        for seed in (1, 2):
            vector = ["model.vector=four"] if tokens == "binned" else []
            items = (f"model.tokens.kind={tokens}", f"train.seed={seed}", "train.epochs=1", *vector)
            items = (*items, "train.finish=[evaluate]", "train.figures=false")
            paths.append(start(tiny_config(*items), folder / f"{tokens}{seed}").path)
    return paths


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    return out, report(runs, out, num_resamples=100)


def test_page_needs_nothing_beside_it(page):
    text = page[0].read_text()
    assert text.count("data:image/png;base64,") == 18
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "What the runs say" in text
    assert "{{" not in text


def test_files_beside_the_page(page, runs):
    files = page[0].with_name("page_files")
    assert len(list((files / "figures").glob("*.png"))) == 18
    assert len(list((files / "figures").glob("*.pdf"))) == 18
    rows = list(csv.DictReader((files / "summary.csv").read_text().splitlines()))
    assert [row["run"] for row in rows] == [path.name for path in runs]
    assert rows[2]["configuration"] == "binned-cls-met-four"
    evaluation = json.loads((runs[0] / "evaluation_test.json").read_text())
    assert float(rows[0]["auroc"]) == evaluation["auroc"]


def test_claims_have_intervals(page):
    statistics = json.loads((page[0].with_name("page_files") / "statistics.json").read_text())
    assert [c["factor"] for c in statistics["contrasts"]] == ["tokens"]
    text = page[0].read_text()
    for contrast in statistics["contrasts"]:
        assert "95 % interval" in contrast["sentence"]
        assert contrast["estimate"]["low"] < contrast["estimate"]["high"]
        assert contrast["sentence"] in text.replace("&#43;", "+")


def test_a_single_seed_makes_no_claim(runs, tmp_path, monkeypatch):
    (tmp_path / "dot.png").write_bytes(b"png")  # the pictures are drawn in the other tests
    monkeypatch.setattr(plots, "save", lambda figure, path: [tmp_path / "dot.png"])
    report([runs[0], runs[2]], tmp_path / "page.html", num_resamples=100)
    text = (tmp_path / "page.html").read_text()
    assert "No comparison is stated" in text
    assert "95 % interval" not in text
    assert "one seed" in text


def test_runs_that_cannot_be_compared(runs, vqvae_run, tiny_config, start, tmp_path):
    other = start(
        tiny_config("data.num_events=32", "train.epochs=1", "train.finish=[evaluate]", "train.figures=false"),
        tmp_path / "other",
    )
    with pytest.raises(UserError, match="was tested on other events than"):
        report([runs[0], other.path], tmp_path / "page.html")
    with pytest.raises(UserError, match="is a vqvae, which classifies nothing"):
        report([vqvae_run.path], tmp_path / "page.html")
    bare = start(tiny_config("train.epochs=1"), tmp_path / "bare")
    with pytest.raises(UserError, match="was not evaluated; run `fourtop-tokens evaluate --run"):
        report([bare.path], tmp_path / "page.html")
    with pytest.raises(UserError, match=r"should end in \.html"):
        report(runs, tmp_path / "page.pdf")
    assert not (tmp_path / "page.html").exists()
