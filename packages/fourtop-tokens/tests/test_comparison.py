"""Contrasts on runs whose true differences are known."""

import itertools

import numpy as np
import pytest

from fourtop_tokens.comparison import Comparison, Run

SHIFT = {"identity": 1.6, "vq": 1.6, "binned": 0.8}


def make(
    num_events=4000,
    seeds=(1, 2, 3),
    tokens=("identity", "binned", "vq"),
    poolings=("cls", "mean"),
    seed=0,
    options=("",),
):
    """Runs whose score separates by SHIFT of the tokens; a shared noise makes them correlated."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, num_events).astype(np.int8)
    shared = rng.normal(0, 1, num_events)
    runs = []
    levels_of_all = itertools.product(tokens, poolings, ("met", "nomet"), seeds, options)
    for kind, pooling, met, s, option in levels_of_all:
        scores = (SHIFT[kind] + 0.3 * bool(option)) * (labels == 1) + shared + rng.normal(0, 0.05, num_events)
        levels = {
            "tokens": kind,
            "pooling": pooling,
            "met": met,
            "vector": "four" if kind == "binned" and not option else "five",
        }
        summary = {"auroc": 0.0, "accuracy": 0.0, "weighted_f1": 0.0, "eff_at_50": 0.0}
        name = f"{kind}{pooling}{met}{s}{option}"
        runs.append(Run(name, levels, option, s, scores, summary, np.array([0.5, 0.6])))
    return Comparison(runs, labels, num_resamples=200)


@pytest.fixture(scope="module")
def comparison():
    return make()


def found(comparison):
    return {(c.factor, c.first, c.second): c for c in comparison.contrasts()}


def test_contrasts_are_the_planned_ones(comparison):
    assert set(found(comparison)) == {
        ("tokens", "identity", "binned"), ("tokens", "identity", "vq"), ("tokens", "binned", "vq"),
        ("pooling", "cls", "mean"), ("met", "met", "nomet"),
    }  # fmt: skip


def test_true_differences_are_found_and_absent_ones_are_not(comparison):
    contrasts = found(comparison)
    large = contrasts["tokens", "identity", "binned"]
    areas = comparison.areas.aurocs
    levels = comparison.levels("tokens")
    assert large.estimate.value == pytest.approx(
        areas[levels["identity"]].mean() - areas[levels["binned"]].mean()
    )
    assert large.verdict == "different"
    assert "identity is better" in large.sentence
    assert "95 % interval" in large.sentence
    assert contrasts["pooling", "cls", "mean"].verdict == "equivalent"
    assert "equal within 0.002" in contrasts["pooling", "cls", "mean"].sentence


def test_options_are_compared_with_none():
    both = make(tokens=("identity", "binned"), poolings=("cls",), options=("", "physics"))
    contrast = found(both)["options", "physics", "none"]
    assert contrast.num_pairs == 4
    assert contrast.verdict == "different"
    assert contrast.sentence.startswith("options physics against none: physics is better")
    effect = both.effects().effect("options: physics - none")
    assert effect.value == pytest.approx(contrast.estimate.value, abs=1e-3)
    assert not any(run.is_binned for run in both.runs if run.options)


def test_every_sentence_has_its_interval(comparison):
    assert all("95 % interval" in contrast.sentence for contrast in comparison.contrasts())


def test_one_seed_makes_no_claim():
    single = make(seeds=(1,))
    assert single.contrasts() == []
    assert single.mean([0, 1]) is None
    assert all(value is None for value in single.against_best().values())
    assert all(value is None for row in single.efficiencies().values() for value in row.values())


def test_intervals_cover():
    """Two equal tokenisations: the interval of their difference holds 0 in about 95 of 100 samples."""
    covered = 0
    for seed in range(60):
        contrast = found(make(600, tokens=("identity", "vq"), poolings=("cls",), seed=seed))[
            "tokens", "identity", "vq"
        ]
        covered += contrast.estimate.low <= 0 <= contrast.estimate.high
    assert covered >= 51  # 60 x 0.95 = 57, three standard deviations


def test_binned_runs_are_compared_with_both_vectors(comparison):
    """Binned tokens hold no E: their one run is the partner of `five` in a contrast of tokens only."""
    contrasts = found(comparison)
    assert contrasts["tokens", "identity", "binned"].num_pairs == 4
    assert contrasts["pooling", "cls", "mean"].num_pairs == 6


def test_efficiencies_have_intervals(comparison):
    for row in comparison.efficiencies().values():
        for estimate in row.values():
            assert estimate.low <= estimate.value <= estimate.high
    assert not comparison.stable(1000)


def test_mixed_model_agrees_with_the_contrast(comparison):
    model = comparison.effects()
    effect = model.effect("tokenisation: binned - identity")
    contrast = found(comparison)["tokens", "identity", "binned"].estimate
    assert effect.value == pytest.approx(-contrast.value, abs=1e-3)
    assert effect.low < effect.value < effect.high


def test_too_few_runs_for_a_mixed_model():
    assert make(seeds=(1,), tokens=("identity",), poolings=("cls",)).effects() is None


def test_binned_runs_do_not_stand_for_four_vectors(comparison):
    assert set(comparison.levels("vector")) == {"five", "four"}
    assert set(comparison.levels("vector", comparable=True)) == {"five"}
    only_binned = make(tokens=("binned",))
    assert set(only_binned.levels("vector", comparable=True)) == {"four"}
