import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure

from megii_xec import event_display, metrics, plots
from megii_xec.data.schema import MISSING
from megii_xec.physics import coordinates, geometry

NUM_EVENTS = 600
EDGES_GEV = np.linspace(0.015, 0.060, 6)


@pytest.fixture(scope="module")
def photons():
    """Truth, a network and a worse baseline with missing events."""
    rng = np.random.default_rng(2)
    energy, u = rng.uniform(0.015, 0.060, NUM_EVENTS), rng.uniform(-24, 24, NUM_EVENTS)
    truth = {
        "energy": energy,
        "uvwFI": np.stack([u, 2 * u, np.abs(u)], axis=1),
        "angle": np.stack([u, u], axis=1),
    }
    samples = {}
    for name, scale in (("network", 1.0), ("conventional", 1.4)):
        pred = {
            "energy": energy * rng.normal(1, 0.02 * scale, NUM_EVENTS),
            "uvwFI": truth["uvwFI"] + rng.normal(0, 0.25 * scale, (NUM_EVENTS, 3)),
            "angle": truth["angle"] + rng.normal(0, 2.0 * scale, (NUM_EVENTS, 2)),
        }
        pred["energy"][: int(10 * scale)] = MISSING
        samples[name] = metrics.residuals(pred, truth)
    return truth, samples


def texts(figure):
    """All text of a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def energy_profiles(photons):
    truth, samples = photons
    return {
        name: metrics.profile(truth["energy"], residual["energy_relative"], EDGES_GEV)
        for name, residual in samples.items()
    }


def history():
    records = [
        {"step": 10 * i, "epoch": 0, "train_loss": 1 / (1 + i), "lr": 1e-3 / (1 + i)} for i in range(60)
    ]
    losses = [0.9, 0.4, 0.5, float("nan")]
    records += [
        {"step": 150 * (i + 1), "epoch": i, "val_loss": loss, "val_resolution_deg": 4.0 - i, "u_width68": 3.0}
        for i, loss in enumerate(losses)
    ]
    return records


def draw(name, photons):
    truth, samples = photons
    compared = {q: {name: s[q] for name, s in samples.items()} for q in ("energy", "opening_angle")}
    if name == "training_curves":
        return plots.training_curves(history())
    if name == "resolution_profiles":
        return plots.resolution_profiles("energy_relative", {"energy": energy_profiles(photons)}, floor=1.0)
    if name == "residual_histograms":
        return plots.residual_histograms(
            {"energy": compared["energy"]}, {"energy": {"network": 0.7512, "conventional": 1.0}}
        )
    if name == "opening_angle":
        resolutions = {"network": 3.0, "conventional": 4.0}
        return plots.opening_angle(compared["opening_angle"], resolutions, floor_deg=2.6)
    if name == "truth_vs_prediction":
        return plots.truth_vs_prediction({"energy": (truth["energy"], truth["energy"] * 1.01)})
    if name == "energy_resolution":
        profiles = energy_profiles(photons)
        fits = {
            name: metrics.fit_energy_resolution(p.centers, p.width / 100, (p.width_high - p.width_low) / 200)
            for name, p in profiles.items()
        }
        return plots.energy_resolution(profiles, fits)
    return plots.saliency_profile({"theta": np.ones((6, 2))}, geometry.FACES)


FIGURES = {  # figure and words that it must show
    "training_curves": ("optimiser step", "learning rate", "direction, 68 % width [deg]", "best: step 300"),
    "resolution_profiles": ("true $E_\\gamma$ [MeV]", "bias [%]", "network", "limit of the unseen vertex"),
    "residual_histograms": ("network: 0.751 MeV", "conventional: 1.00 MeV", "10 missing", "14 missing"),
    "opening_angle": ("network: 3.00 deg", "limit of the unseen vertex: 2.60 deg"),
    "truth_vs_prediction": ("true $E_\\gamma$ [MeV]", "predicted $E_\\gamma$ [MeV]", "0 missing"),
    "energy_resolution": ("conventional", "MeV", "\\sigma_E/E"),
    "saliency_profile": ("npho", "time", "bottom", "share of the gradient"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_as_png_and_pdf(name, photons, tmp_path):
    figure = draw(name, photons)
    png, pdf = plots.save(figure, tmp_path / name)
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert pdf.read_bytes()[:4] == b"%PDF"
    assert png.stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.pdf"}
    for words in FIGURES[name]:
        assert words in texts(figure)


def test_figures_leave_no_global_state(photons):
    before = dict(matplotlib.rcParams)
    plots.training_curves(history())
    assert dict(matplotlib.rcParams) == before


def test_the_same_numbers_give_the_same_pdf(tmp_path):
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().plot([0, 1])
    first, second = (plots.save(figure, tmp_path / name)[1] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_axes_name_every_residual_in_its_unit(photons):
    for name, quantity in metrics.QUANTITIES.items():
        assert plots.AXES[name].residual_unit == quantity.unit
    assert set(metrics.DERIVED_METRICS) <= set(plots.AXES)
    shown = {key for _, curves in plots._METRIC_PANELS for key in curves}
    truth, _ = photons
    directions = coordinates.angles_to_vector(*truth["angle"].T)
    everything = {**truth, "timing": truth["energy"], "angleVec": directions}
    of_others = {"mae_npho", "mae_time", "system/throughput_events_per_sec"}  # of hidden sensors, of the loop
    of_others |= {f"mae_{face}_npho" for face in ("inner", "outer", "us", "top")}
    assert shown - of_others <= set(metrics.regression_summary(everything, everything))
    assert max(len(curves) for _, curves in plots._METRIC_PANELS) <= len(plots.COLORS)


def test_training_curves_draw_the_records_in_order():
    loss, rate, direction, position = plots.training_curves(history()).axes
    training, validation = loss.lines[:2]
    np.testing.assert_allclose(training.get_ydata(), 1 / (1 + np.arange(60)))
    np.testing.assert_allclose(validation.get_xdata(), [150, 300, 450])  # the diverged epoch is a gap
    assert loss.get_yscale() == "log"
    assert rate.get_ylim()[0] == 0
    assert direction.lines[0].get_ydata().tolist() == [4.0, 3.0, 2.0, 1.0]
    assert position.get_ylabel() == "position, 68 % width [mm]"


def test_empty_history_draws_an_empty_panel():
    figure = plots.training_curves([])
    assert len(figure.axes) == 1
    assert not figure.axes[0].lines


def test_profiles_convert_to_the_axis_and_skip_empty_bins():
    x, residual = np.full(100, 0.05), np.random.default_rng(0).normal(size=100)
    profile = metrics.profile(x, residual, [0.02, 0.04, 0.06])
    figure = plots.resolution_profiles("energy_relative", {"energy": {"network": profile}})
    points = figure.axes[0].containers[0].lines[0]
    assert points.get_xdata().tolist() == pytest.approx([30.0, 50.0])
    np.testing.assert_array_equal(points.get_ydata(), profile.width)
    figure.draw_without_rendering()


def test_distances_have_no_bias_panel():
    profile = metrics.profile(np.linspace(0, 1, 50), np.ones(50), [0.0, 1.0], statistic="percentile68")
    figure = plots.resolution_profiles("opening_angle", {"u": {"a": profile}, "v": {"a": profile}})
    assert len(figure.axes) == 2


def test_histogram_of_missing_values_only_is_drawn():
    figure = plots.residual_histograms({"u": {"network": np.full(5, np.nan)}}, {"u": {"network": np.nan}})
    figure.draw_without_rendering()
    assert "0 outside, 5 missing" in texts(figure)


def test_two_dimensional_histogram_contains_every_visible_event(photons):
    truth, _ = photons
    figure = plots.truth_vs_prediction({"u": (truth["uvwFI"][:, 0], truth["uvwFI"][:, 0])})
    (mesh,) = figure.axes[0].findobj(QuadMesh)
    counts = mesh.get_array()
    assert counts.sum() == NUM_EVENTS
    assert np.trace(counts.filled(0)) == NUM_EVENTS  # truth on the abscissa, prediction on the ordinate


@pytest.fixture(scope="module")
def event():
    """Light of a point source at w = 3 cm, five dead sensors."""
    source = np.array([-67.97, 0.0, 0.0])
    distance = np.linalg.norm(geometry.sensor_positions() - source, axis=1)
    npho, time = 1e6 * geometry.sensor_area() / (4 * np.pi * distance**2), distance / 19.0 * 1e-9
    dead = np.array([3, 2000, 4092, 4600, 4759])
    npho[dead] = time[dead] = MISSING
    return npho, time, dead


def test_event_display_draws_each_sensor_once(event, tmp_path):
    npho, time, dead = event
    figure = event_display.event_display(
        npho,
        time,
        truth={"uvwFI": [0.0, 0.0, 3.0], "energy": [0.05283], "timing": 1.25, "angle": [90.0, 0.0]},
        reco={"uvwFI": [0.3, -0.2, 3.1]},
        title="run 1, event 7",
    )
    png = tmp_path / "event.png"
    figure.savefig(png, dpi=60)
    assert png.stat().st_size > 50_000
    for ax in figure.axes[:2]:
        live, off = ax.findobj(PolyCollection)[:2]
        assert len(live.get_paths()) == geometry.NUM_SENSORS - len(dead)
        assert len(off.get_paths()) == len(dead)
    for words in ("run 1, event 7", "E =  52.83 MeV", "dead (5)", "true first interaction", "upstream"):
        assert words in texts(figure)


def test_event_display_colours_are_the_data(event):
    npho, time, dead = event
    figure = event_display.event_display(npho, time)
    light, delay = (ax.findobj(PolyCollection)[0].get_array() for ax in figure.axes[:2])
    alive = np.setdiff1d(np.arange(geometry.NUM_SENSORS), dead)
    bright = npho[alive] > npho[alive].max() / 1e3
    np.testing.assert_allclose(light[bright], npho[alive][bright])
    np.testing.assert_array_equal(np.ma.getmaskarray(delay), npho[alive] < 100)
    assert delay.min() == 0.0
    assert delay.max() == pytest.approx(1e9 * np.ptp(time[alive][npho[alive] >= 100]))


def test_markers_sit_on_the_inner_face(event):
    npho, time, _ = event
    figure = event_display.event_display(npho, time, truth={"uvwFI": [10.0, -20.0, 3.0]})
    marked = [line for line in figure.axes[0].lines if line.get_label() == "true first interaction"]
    assert [line.get_xydata().tolist() for line in marked] == [[[10.0, -20.0]]]


def test_centres_of_the_outlines_are_the_sensor_positions():
    centers = np.stack([outline.mean(axis=0) for outline in event_display.sensor_outlines()])
    np.testing.assert_allclose(centers, event_display.display_positions(), atol=0.06)  # sectors are bent


@pytest.mark.parametrize(("face", "sign"), [("top", 1), ("bottom", -1)])
def test_hexagons_sit_at_their_tubes(face, sign):
    ids = geometry.face_ids(face)
    x, y, z = geometry.sensor_positions()[ids].T
    hexagons = np.stack([event_display.sensor_outlines()[i] for i in ids])
    assert hexagons.shape == (73, 6, 2)
    centers = hexagons.mean(axis=1)
    np.testing.assert_allclose(centers[:, 0], z, atol=1e-9)
    away = sign * centers[:, 1]
    np.testing.assert_allclose(away - away.min(), np.hypot(x, y) - np.hypot(x, y).min(), atol=1e-9)
    # flat sides face the neighbours in the row, and no two tubes overlap
    np.testing.assert_allclose(np.ptp(hexagons[:, :, 0], axis=1), 0.94 * 6.12)
    gaps = np.linalg.norm(centers[:, None] - centers[None], axis=2)[~np.eye(73, dtype=bool)]
    assert gaps.min() == pytest.approx(6.12)


def test_faces_keep_their_scale_and_do_not_overlap():
    outlines, face = event_display.sensor_outlines(), geometry.sensor_face()
    place = event_display.display_positions()
    inner, outer = (place[geometry.face_ids(name)] for name in ("inner", "outer"))
    assert np.ptp(inner[:, 0]) == pytest.approx(64.92, abs=0.01)
    assert np.ptp(inner[:, 1]) == pytest.approx(np.deg2rad(92 * 1.349674) * 64.97)
    assert np.ptp(outer[:, 1]) == pytest.approx(np.deg2rad(23 * 5.23) * 106.27)
    # cells of different faces stay apart: no corner of one lies within another face's nearest cell
    corners = np.concatenate(outlines)
    owner = np.concatenate([np.full(len(outline), f) for outline, f in zip(outlines, face, strict=True)])
    for index in range(len(geometry.FACES)):
        own, others = corners[owner == index], corners[owner != index]
        nearest = np.sqrt(((own[::3, None] - others[None, ::7]) ** 2).sum(axis=2).min())
        assert nearest > 2.0


def test_upstream_is_left_and_larger_v_is_up():
    place = event_display.display_positions()
    assert (place[geometry.face_ids("us"), 0] < -30).all()
    assert (place[geometry.face_ids("ds"), 0] > 30).all()
    assert place[0, 1] > 60  # phi = 118 degrees is the upper end
    assert place[geometry.face_ids("top"), 1].min() > place[geometry.face_ids("inner"), 1].max()


def test_event_display_of_a_dark_event_and_of_a_wrong_shape():
    dark = event_display.event_display(np.full(4760, np.nan), np.full(4760, MISSING))
    dark.draw_without_rendering()
    assert "dead (4760)" in texts(dark)
    with pytest.raises(ValueError, match=r"need shape \(4760,\), got \(4759,\)"):
        event_display.event_display(np.zeros(4759), np.zeros(4760))


def test_filled_sensors_are_drawn_beside_the_measured_ones():
    rng = np.random.default_rng(0)
    measured = rng.exponential(500, geometry.NUM_SENSORS)
    measured[:5] = MISSING
    seen, filled = measured.copy(), measured.copy()
    seen[100:200], filled[100:200] = MISSING, 77.0
    figure = event_display.hidden_display(measured, seen, filled, title="run 1, event 2")
    first, second, third = figure.axes[:3]
    labels = [ax.get_legend().get_texts()[0].get_text() for ax in (first, second, third)]
    assert labels == ["dead (5)", "dead (105)", "dead (5)"]
    live = [ax.collections[0].get_array() for ax in (first, second, third)]
    assert [len(values) for values in live] == [4755, 4655, 4755]
    np.testing.assert_allclose(live[2][95:195], 77.0)
    assert live[0][95] != live[2][95]
    with pytest.raises(ValueError, match=r"'measured' needs shape \(4760,\), got \(3,\)"):
        event_display.hidden_display(np.zeros(3), seen, filled)
