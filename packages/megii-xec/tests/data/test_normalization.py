import math
from typing import Any

import numpy as np
import pytest
import torch

from hep_shared.config import load_config, to_plain
from hep_shared.errors import ConfigError
from megii_xec.config import PRESETS, Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import MISSING

SCHEMES = ["legacy", "new", "sqrt", "anscombe", "linear"]


def reference(config: Normalization, npho: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The definition, one sensor at a time, in double precision."""
    out = np.empty((*npho.shape, 2))
    for index in np.ndindex(npho.shape):
        n, t = float(npho[index]), float(time[index])
        bad = math.isnan(n) or n > 9e9 or (config.nonpositive_invalid and n <= 0)
        time_bad = bad or math.isnan(t) or abs(t) > 9e9 or n < config.npho_threshold
        s1, s2 = config.npho_scale, config.npho_scale2
        if bad:
            x = config.sentinel_npho
        elif config.formula == "log1p":
            x = math.log1p(n / s1) / s2 if n > -s1 else 0.0
        elif config.formula == "sqrt":
            x = math.sqrt(n / s1) / s2 if n > 0 else 0.0
        elif config.formula == "anscombe":
            x = (math.sqrt(n + 0.375) - math.sqrt(0.375)) / (math.sqrt(s1) * s2) if n > 0 else 0.0
        else:
            x = n / (s1 * s2)
        y = config.sentinel_time if time_bad else t / config.time_scale_s - config.time_shift
        out[index] = x, y
    return out


def sensors(config: Normalization, num_events: int = 37) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    scale = 0.1 if config.npho_input == "relative_npho" else 2e3
    npho = rng.exponential(scale, (num_events, 50)).astype(np.float32)
    time = rng.normal(1e-7, 5e-8, npho.shape).astype(np.float32)
    special = [np.nan, MISSING, 0.0, -0.1 * scale, -1e6, np.inf, 3e38, config.npho_threshold]
    npho[:, : len(special)] = np.array(special, np.float32)
    time[:, 10:15] = np.array([np.nan, MISSING, -MISSING, np.inf, 0.0], np.float32)
    return npho, time


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_apply_is_the_definition(scheme: Any, byte_order: str) -> None:
    config = Normalization(scheme=scheme)
    npho, time = sensors(config)
    result = config.apply(npho.astype(f"{byte_order}f4"), time.astype(f"{byte_order}f4"))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, reference(config, npho, time), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_torch_agrees_with_numpy(scheme: Any) -> None:
    config = Normalization(scheme=scheme)
    npho, time = sensors(config)
    keep = ~(npho < -100)  # x of order -50 there, where float32 itself is coarser than the tolerance
    result = config.apply_torch(torch.from_numpy(npho), torch.from_numpy(time)).numpy()
    np.testing.assert_allclose(result[keep], config.apply(npho, time)[keep], rtol=1e-6, atol=1e-6)


def test_torch_version_can_be_exported() -> None:
    config = Normalization()

    class Wrapper(torch.nn.Module):
        def forward(self, npho: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return config.apply_torch(npho, time)

    npho, time = map(torch.from_numpy, sensors(config))
    program = torch.export.export(Wrapper(), (npho, time))
    assert torch.equal(program.module()(npho, time), config.apply_torch(npho, time))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_invert_restores_values_and_missing_ones(scheme: Any) -> None:
    config = Normalization(scheme=scheme)
    scale = 0.5 if config.npho_input == "relative_npho" else 5e3
    npho = np.linspace(max(config.npho_threshold, 1e-3 * scale), 5 * scale, 200, dtype=np.float32)[None]
    time = np.linspace(1e-9, 3e-7, 200, dtype=np.float32)[None]
    npho_back, time_back = config.invert(config.apply(npho, time))
    np.testing.assert_allclose(npho_back, npho, rtol=2e-5)
    np.testing.assert_allclose(time_back, time, rtol=1e-5, atol=1e-13)
    missing = np.full((1, 3), MISSING, np.float32)
    npho_back, time_back = config.invert(config.apply(missing, missing))
    assert (time_back == np.float32(MISSING)).all()
    assert (npho_back == (0.0 if config.sentinel_npho == 0 else np.float32(MISSING))).all()


def test_apply_writes_into_a_given_array_and_takes_no_events() -> None:
    config = Normalization()
    npho, time = sensors(config, 5)
    out = np.full((5, 50, 2), np.nan, np.float32)
    assert config.apply(npho, time, out) is out
    np.testing.assert_array_equal(out, config.apply(npho, time))
    assert config.apply(npho[:0], time[:0]).shape == (0, 50, 2)
    with pytest.raises(ValueError, match="float32 array of shape"):
        config.apply(npho, time, out.astype(np.float64))
    with pytest.raises(ValueError, match="one shape"):
        config.apply(npho, time[:2])


def test_schemes_have_the_published_constants() -> None:
    legacy, new = Normalization(scheme="legacy"), Normalization(scheme="new")
    assert (legacy.npho_scale, legacy.npho_scale2, legacy.time_scale_s, legacy.time_shift) == (
        0.58,
        1,
        6.5e-8,
        0.5,
    )
    assert (legacy.sentinel_time, legacy.npho_input) == (-5.0, "relative_npho")
    assert (new.npho_scale, new.npho_scale2, new.time_scale_s, new.time_shift) == (1000, 4.08, 1.14e-7, -0.46)
    assert new.apply(np.full((1, 1), 58e3, "f4"), np.zeros((1, 1), "f4"))[0, 0, 0] == pytest.approx(
        1.0, abs=0.01
    )
    assert Normalization(scheme="sqrt", npho_scale=5.0).npho_scale == 5.0


def test_threshold_that_would_invalidate_every_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="invalidate every time"):
        Normalization(scheme="legacy", npho_threshold=100.0)


def test_relative_counts_need_a_scale_of_order_one() -> None:
    with pytest.raises(ConfigError, match="squeeze every count"):
        Normalization(npho_input="relative_npho", npho_threshold=0.0)


def test_fingerprint_changes_with_every_decisive_field() -> None:
    base = Normalization()
    changes: list[dict[str, Any]] = [
        {"npho_scale": 999.0}, {"npho_scale2": 4.0}, {"time_shift": 0.0}, {"sentinel_npho": 0.0},
        {"time_input": "time"}, {"npho_threshold": 50.0}, {"nonpositive_invalid": True}, {"scheme": "sqrt"},
    ]  # fmt: skip
    prints = {Normalization(**{**base.model_dump(), **change}).fingerprint() for change in changes}
    assert len(prints | {base.fingerprint()}) == len(changes) + 1
    # The name of the scheme does not matter where formula and constants agree.
    assert (
        Normalization(**{**base.model_dump(mode="json"), "scheme": "legacy"}).fingerprint()
        == base.fingerprint()
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rescaling_acts_on_the_counts_and_keeps_sentinels(scheme: Any) -> None:
    config = Normalization(scheme=scheme)
    npho = torch.tensor([0.5, 3.0, 200.0, 4e3]) * (1e-3 if config.npho_input == "relative_npho" else 1.0)
    x = config.normalize_npho(npho)
    torch.testing.assert_close(
        config.rescale_npho(x, 1 / 15), config.normalize_npho(npho / 15), rtol=1e-5, atol=1e-6
    )
    sentinel = torch.tensor([config.sentinel_npho])
    assert torch.equal(config.rescale_npho(sentinel, 1 / 15), sentinel)


def test_presets_have_the_constants_of_their_scheme():
    """A scheme brings its constants with it, also through the layers of a configuration."""
    published = load_config(Config, presets=PRESETS, preset="published")
    assert published.data.normalization == Normalization(scheme="new")
    legacy = load_config(Config, presets=PRESETS, preset="legacy")
    assert legacy.data.normalization == Normalization(scheme="legacy")
    chosen = load_config(Config, presets=PRESETS, overrides=["data.normalization.scheme=sqrt"])
    assert chosen.data.normalization == Normalization(scheme="sqrt")
    assert Config.model_validate(to_plain(legacy)) == legacy


def test_what_a_preset_gives_stays_when_the_scheme_changes() -> None:
    overrides = ["data.normalization.scheme=sqrt"]
    mixed = load_config(Config, presets=PRESETS, preset="small", overrides=overrides).data.normalization
    assert (mixed.npho_scale, mixed.time_scale_s) == (20_000.0, 1e-8)


def test_files_hold_every_constant() -> None:
    for scheme in ("legacy", "new", "sqrt"):
        normalization = Normalization(scheme=scheme, npho_scale=7.0)
        stored = normalization.model_dump(mode="json")
        assert stored.keys() == Normalization.model_fields.keys()
        assert Normalization(**stored) == normalization == Normalization(**normalization.model_dump())
        assert normalization.model_dump()["npho_scale"] == 7.0
