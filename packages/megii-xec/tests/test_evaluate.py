"""Worst events, uncertainties and the page of events."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from hep_shared.errors import UserError
from megii_xec.data.normalization import Normalization
from megii_xec.data.stream import PhotonStream
from megii_xec.data.targets import TargetScaling
from megii_xec.evaluate import WorstEvents
from megii_xec.event_page import event_page
from megii_xec.figures import calibration_curves
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.physics.geometry import NUM_SENSORS, sensor_face
from megii_xec.predict import Predictor
from megii_xec.saliency import saliency
from megii_xec.uncertainty import calibration, combine, ensemble, mc_dropout, rank_correlation


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_events_are_kept(seed):
    badness = np.random.default_rng(seed).permutation(200).astype(float)
    badness[7] = np.nan
    worst = WorstEvents(10)
    for number, value in enumerate(badness):
        worst.offer(value, lambda number=number: {"number": number})
    expected = np.argsort(np.where(np.isnan(badness), -1, badness))[::-1][:10]
    assert [event["number"] for event in worst.events()] == expected.tolist()


def test_equal_errors_are_no_trouble():
    worst = WorstEvents(2)
    for number in range(5):
        worst.offer(1.0, lambda number=number: {"number": number})
    assert [event["number"] for event in worst.events()] == [0, 1]


def test_calibration_of_a_gaussian_and_of_one_that_is_too_sure():
    rng = np.random.default_rng(0)
    truth = {"energy": np.zeros((20_000, 1), np.float32)}
    sigma = rng.uniform(0.5, 2, (20_000, 1))
    predicted = {
        "energy": (rng.normal(size=sigma.shape) * sigma).astype(np.float32),
        "sigma_energy": sigma.astype(np.float32),
    }
    good = calibration(predicted, truth)["energy"]
    assert good["coverage68"] == pytest.approx(0.683, abs=0.01)
    assert good["coverage95"] == pytest.approx(0.954, abs=0.005)
    assert good["pull_width68"] == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(good["observed"], good["levels"], atol=0.015)
    assert good["error_correlation"] > 0.2
    predicted["sigma_energy"] = predicted["sigma_energy"] / 2
    sure = calibration(predicted, truth)["energy"]
    assert sure["pull_width68"] == pytest.approx(2, abs=0.04)
    assert sure["coverage68"] < 0.4
    (ax,) = calibration_curves({"energy": sure}).axes
    assert "pull width 2.0" in ax.get_legend().get_texts()[0].get_text()


def test_predictions_are_averaged_with_both_kinds_of_uncertainty():
    members = [
        {"energy": np.array([[1.0]]), "sigma_energy": np.array([[3.0]]), "n_gamma": np.array([[1.0]])},
        {"energy": np.array([[2.0]]), "sigma_energy": np.array([[5.0]]), "n_gamma": np.array([[1.0]])},
    ]
    both = combine(members)
    assert both["energy"].item() == 1.5
    assert both["sigma_energy"].item() == pytest.approx(np.sqrt((9 + 25) / 2 + 0.5))
    assert both["n_gamma"].item() == 1.0
    assert "sigma_n_gamma" not in both


class LinearNetwork(torch.nn.Module):
    """Energy is the sum of the counts of the inner face plus three times the times of the top."""

    def forward(self, x):
        face = torch.from_numpy(sensor_face().astype(np.int64))
        return {"energy": (x[:, face == 0, 0].sum(1) + 3 * x[:, face == 4, 1].sum(1))[:, None]}


def test_saliency_of_a_network_that_is_known(photons):
    scaling = TargetScaling()
    model = PhotonReconstruction(LinearNetwork(), Normalization(), scaling, ("energy",)).eval()
    raw = Predictor(("energy",), ("energy",), model.normalization, lambda batch: {}, photons).raw
    with PhotonStream(photons / "test.root", raw, batch_size=10) as stream:
        found = saliency(model, stream, torch.device("cpu"), num_events=12)["energy"]
    unit = (
        scaling.unscale("energy", torch.ones(1, 1)).item()
        - scaling.unscale("energy", torch.zeros(1, 1)).item()
    )
    expected = np.zeros((6, 2))
    expected[0, 0], expected[4, 1] = 4092 * unit, 3 * 73 * unit
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_rank_correlation():
    a = np.array([1.0, 5.0, 2.0, 9.0])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.ones(4)) == 0


def test_uncertainties_that_cannot_be_had_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 2 passes"):
        mc_dropout(tmp_path, "cpu", num_passes=1)
    with pytest.raises(UserError, match="at least two runs"):
        ensemble([tmp_path], "cpu")


@pytest.fixture
def page():
    rng = np.random.default_rng(0)
    npho = rng.exponential(100, NUM_SENSORS)
    npho[:9] = 1e10
    npho[9] = -3.0  # noise, and not dead
    event = {
        "npho": npho, "time": rng.uniform(0, 1e-8, NUM_SENSORS), "title": "run 1, event </script><b>2",
        "truth": {"uvwFI": np.array([1.0, 2.0, 3.0]), "energy": np.array([0.05])}, "reco": None,
    }  # fmt: skip
    return event_page([event], title="a <run>")


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"(src|href)\s*=|https?://|import\s", page)
    assert "a &lt;run&gt;" in page
    assert page.count("</script>") == 1  # no title of an event ends the script


def test_the_page_holds_every_sensor(page):
    data = json.loads(re.search(r"const data = (\{.*?\});\n", page, re.DOTALL).group(1))
    assert len(data["positions"]) == 3 * NUM_SENSORS
    (event,) = data["events"]
    assert len(event["npho"]) == len(event["time"]) == len(data["faces"]) == NUM_SENSORS
    assert event["npho"][:9] == [-1] * 9
    assert min(event["npho"][9:]) >= 0
    assert event["truth"]["energy_mev"] == pytest.approx(50)
    assert event["truth"]["xyz"][2] == pytest.approx(1.0)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_draws_every_sensor(page, tmp_path):
    """Run the page's script with a canvas that only counts."""
    stub = """
const calls = {fillRect: 0, arc: 0};
const pen = new Proxy({}, {get: (_, k) => (...a) => { if (k in calls) calls[k]++; if (a.some(x => Number.isNaN(x))) throw Error("NaN in " + String(k)); }, set: () => true});
const make = () => ({value: "", style: {}, clientWidth: 800, clientHeight: 600, getContext: () => pen, add(o) { if (this.value === "") this.value = 0; }, addEventListener() {}, getBoundingClientRect: () => ({left: 0, top: 0})});
const known = {};
globalThis.document = {getElementById: id => known[id] ??= Object.assign(make(), id === "what" ? {value: "npho"} : id === "least" ? {value: "0"} : {})};
globalThis.window = {devicePixelRatio: 1, addEventListener() {}};
globalThis.Option = class {};
"""  # noqa: E501
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL).group(1)
    file = tmp_path / "page.js"
    file.write_text(f"{stub}{{{script}}}\nconsole.log(JSON.stringify(calls));")
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # Squares for SiPMs, 220 steps of the colour scale, one colour explained; discs for tubes, and a marker.
    assert json.loads(done.stdout) == {"fillRect": 4092 + 220 + 1, "arc": NUM_SENSORS - 4092 + 1}
