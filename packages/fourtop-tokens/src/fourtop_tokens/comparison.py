r"""What a set of runs over one test sample says about the factors.

A planned contrast of two levels a, b of a factor averages the difference of areas over the combinations of
the other factors that have both and over the seeds, which is a sum Σ_i w_i A_i over the runs with

    Var = wᵀ Σ_DeLong w + σ² Σ_i w_i²,

the first term for the finite test sample (paired), the second for the seeds: σ² is the variance between
seeds, pooled over the configurations that take part; Satterthwaite's formula gives the degrees of freedom.
The contrasts are fixed before any result: all pairs of levels of tokenisation and of pooling, with against
without missing momentum, with against without E, every set of other options against none. Holm's correction
covers them all.

R runs, N events of the test sample.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens import metrics
from fourtop_tokens.statistics import (
    EQUIVALENCE_MARGIN,
    DeLong,
    Estimate,
    MixedModel,
    bootstrap_efficiencies,
    combine,
    delong,
    equivalence,
    holm,
    mixed_model,
    two_level_bootstrap,
)

FACTORS = ("tokens", "pooling", "met", "vector")
FACTOR_NAMES = {"tokens": "tokenisation", "pooling": "pooling", "met": "missing momentum", "vector": "vector"}
OPTIONS, NO_OPTIONS = "options", "none"  # as if they were one more factor, in planned contrasts
REJECTIONS = (50, 100)  # 1/ε_B with an interval
ALPHA = 0.05


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
        name: Name of its directory.
        levels: Level of each factor.
        options: What else distinguishes its configuration.
        seed: Its seed.
        scores: Score of each test event, (N,).
        summary: Its figures of merit.
        val_auroc: Validation area by epoch.
    """

    name: str
    levels: dict[str, str]
    options: str
    seed: int
    scores: NDArray[np.float64]
    summary: dict[str, Any]
    val_auroc: NDArray[np.float64]

    @property
    def is_binned(self) -> bool:
        """Whether its tokens are bins and nothing else holds E, so that both vectors are the same."""
        binned = self.levels["tokens"].startswith("binned") and self.levels["vector"] == "four"
        return binned and "physics" not in self.options

    def level(self, factor: str) -> str:
        """Level of a factor, or all its options together."""
        return (self.options or NO_OPTIONS) if factor == OPTIONS else self.levels[factor]

    @property
    def configuration(self) -> str:
        """Levels and options in one name."""
        return "-".join([*self.levels.values(), *([self.options] if self.options else [])])


@dataclass(frozen=True)
class Contrast:
    """A planned comparison.

    Attributes:
        factor: Factor.
        first: Level whose area counts positive.
        second: Level it is compared with.
        num_pairs: Combinations of the other factors that have both.
        estimate: Difference of areas.
        holm: P-value after Holm's correction over all planned contrasts.
        equivalence: P-value of the two one-sided tests.
    """

    factor: str
    first: str
    second: str
    num_pairs: int
    estimate: Estimate
    holm: float
    equivalence: float

    @property
    def verdict(self) -> str:
        """What may be said: `different`, `equivalent`, both, or `undecided`."""
        different, equivalent = self.holm < ALPHA, self.equivalence < ALPHA
        if different and equivalent:
            return "different, by less than the margin"
        return "different" if different else "equivalent" if equivalent else "undecided"

    @property
    def sentence(self) -> str:
        """The claim with its interval."""
        e = self.estimate
        interval = f"{e.value:+.4f}, 95 % interval {e.low:+.4f} to {e.high:+.4f}"
        pair = f"{FACTOR_NAMES.get(self.factor, self.factor)} {self.first} against {self.second}"
        if self.verdict.startswith("different"):
            better = self.first if e.value > 0 else self.second
            return f"{pair}: {better} is better ({interval}; Holm p = {self.holm:.2g})."
        if self.verdict == "equivalent":
            return f"{pair}: equal within {EQUIVALENCE_MARGIN} ({interval}; TOST p = {self.equivalence:.2g})."
        return f"{pair}: undecided ({interval})."


class Comparison:
    """Runs over the same test events.

    Args:
        runs: R runs.
        labels: 1 (tttt) to 5, (N,).
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """

    def __init__(
        self, runs: Sequence[Run], labels: NDArray[np.int8], *, num_resamples: int = 2000, seed: int = 0
    ) -> None:
        self.runs, self.labels, self.is_signal = list(runs), labels, labels == 1
        self._num_resamples, self._seed = num_resamples, seed
        self.scores = np.stack([run.scores for run in self.runs])
        self.areas: DeLong = delong(self.is_signal, self.scores)

    @property
    def num_seeds(self) -> int:
        """Smallest number of seeds of a configuration."""
        return min(len(indices) for indices in self.configurations().values())

    def configurations(self) -> dict[str, list[int]]:
        """Indices of the runs of each configuration."""
        found: dict[str, list[int]] = {}
        for index, run in enumerate(self.runs):
            found.setdefault(run.configuration, []).append(index)
        return found

    def levels(self, factor: str, *, comparable: bool = False) -> dict[str, list[int]]:
        """Group the runs by the level of a factor.

        Args:
            factor: Factor.
            comparable: Leave binned runs out of the vectors, where they are on one side only, unless there
                are no others.

        Returns:
            Indices of the runs of each level.
        """
        binned = [run.is_binned for run in self.runs]
        drop = comparable and factor == "vector" and not all(binned)
        found: dict[str, list[int]] = {}
        for index, run in enumerate(self.runs):
            if not (drop and binned[index]):
                found.setdefault(run.level(factor), []).append(index)
        return found

    def mean(self, indices: Sequence[int]) -> Estimate | None:
        """Mean area of some runs, over test samples and seeds.

        Args:
            indices: Runs.

        Returns:
            The mean; None unless every configuration among them has two seeds.
        """
        weights = np.zeros(len(self.runs))
        weights[list(indices)] = 1 / len(indices)
        return self._estimate(weights)

    def contrasts(self) -> list[Contrast]:
        """Evaluate the planned contrasts.

        Returns:
            Those with a pair to compare; none without two seeds, since there would be no interval.
        """
        planned = [(plan, estimate) for plan in self._plans() if (estimate := self._difference(*plan[3:]))]
        corrected = holm([estimate.p_value for _, estimate in planned])
        return [
            Contrast(factor, a, b, len(first), estimate, float(p), equivalence(estimate))
            for ((factor, a, b, first, _), estimate), p in zip(planned, corrected, strict=True)
        ]

    def _plans(self) -> Iterator[tuple[str, str, str, list[list[int]], list[list[int]]]]:
        for factor in (*FACTORS, OPTIONS):
            levels = self.levels(factor)
            pairs: Iterable[tuple[str, str]] = itertools.combinations(levels, 2)
            if factor == OPTIONS:
                pairs = ((a, NO_OPTIONS) for a in levels if NO_OPTIONS in levels and a != NO_OPTIONS)
            for a, b in pairs:
                tables = [self._by_other(levels[level], factor) for level in (a, b)]
                common = [key for key in tables[0] if key in tables[1]]
                if common:
                    yield factor, a, b, *([table[key] for key in common] for table in tables)  # type: ignore[misc]

    def _by_other(self, indices: Sequence[int], factor: str) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for index in indices:
            run = self.runs[index]
            others = {name: level for name, level in run.levels.items() if name != factor}
            keys = [tuple(others.values())]
            if factor in ("tokens", OPTIONS) and run.is_binned:
                # Binned tokens hold no E: their one run stands for both vectors.
                keys = [tuple({**others, "vector": vector}.values()) for vector in ("five", "four")]
            for key in keys:
                found.setdefault(key if factor == OPTIONS else (*key, run.options), []).append(index)
        return found

    def _difference(self, first: list[list[int]], second: list[list[int]]) -> Estimate | None:
        """Mean of the first groups minus that of the second; a run may stand in several groups."""
        weights = np.zeros(len(self.runs))
        for sign, groups in ((1, first), (-1, second)):
            for group in groups:
                np.add.at(weights, group, sign / (len(groups) * len(group)))
        return self._estimate(weights)

    def _estimate(self, weights: NDArray[np.float64]) -> Estimate | None:
        """Sum of areas with its interval; None when a configuration in it has a single seed."""
        groups = self._grouped(np.flatnonzero(weights).tolist())
        if not groups or min(len(group) for group in groups) < 2:
            return None
        areas = [self.areas.aurocs[group] for group in groups]
        freedom = sum(len(group) - 1 for group in groups)
        pooled = sum(float(((group - group.mean()) ** 2).sum()) for group in areas) / freedom
        sample = float(weights @ self.areas.covariance @ weights)
        value = float(weights @ self.areas.aurocs)
        return combine(value, sample, pooled * float(weights @ weights), freedom)

    def _grouped(self, indices: Sequence[int]) -> list[list[int]]:
        chosen = set(indices)
        groups = [[i for i in group if i in chosen] for group in self.configurations().values()]
        return [group for group in groups if group]

    def against_best(self) -> dict[str, Estimate | None]:
        """Difference of each configuration to the one with the best validation area.

        Returns:
            For each configuration the paired difference of test areas, None for the best itself and without
            two seeds.
        """
        groups = self.configurations()
        best = max(
            groups, key=lambda name: np.mean([np.nanmax(self.runs[i].val_auroc) for i in groups[name]])
        )
        return {
            name: None
            if name == best or min(len(group), len(groups[best])) < 2
            else self.areas.difference(group, groups[best])
            for name, group in groups.items()
        }

    def efficiencies(self) -> dict[str, dict[int, Estimate | None]]:
        """Signal efficiency of each configuration at fixed rejections.

        Returns:
            For each configuration and 1/ε_B the mean over seeds with its two-level bootstrap interval; None
            where it rests on one seed or on too few background events.
        """
        num_background = int((~self.is_signal).sum())
        result: dict[str, dict[int, Estimate | None]] = {name: {} for name in self.configurations()}
        for rejection in REJECTIONS:
            usable = num_background >= rejection
            if usable:
                nominal, resampled = bootstrap_efficiencies(
                    self.is_signal, self.scores, rejection, num_resamples=self._num_resamples, seed=self._seed
                )
            for name, group in self.configurations().items():
                result[name][rejection] = (
                    two_level_bootstrap(nominal, resampled, group, seed=self._seed + 1)
                    if usable and len(group) > 1
                    else None
                )
        return result

    def stable(self, rejection: int) -> bool:
        """Whether the test sample has enough background for an efficiency."""
        return metrics.is_stable(int((~self.is_signal).sum()), rejection)

    def effects(self) -> MixedModel | None:
        """Fit the mixed model with main effects and, where the runs allow it, two-way interactions.

        Returns:
            The fit; None when there are too few runs.
        """
        names, columns = ["mean"], [np.ones(len(self.runs))]
        coded: dict[str, list[tuple[str, NDArray[np.float64]]]] = {}
        for factor in FACTORS:
            levels = self.levels(factor, comparable=True)
            base = next(iter(levels))
            coded[factor] = [
                (
                    f"{FACTOR_NAMES[factor]}: {level} - {base}",
                    np.array([float(i in set(members)) for i in range(len(self.runs))]),
                )
                for level, members in levels.items()
                if level != base
            ]
        plain, *others = dict.fromkeys(run.options for run in self.runs)
        coded[OPTIONS] = [
            (
                f"{OPTIONS}: {name or NO_OPTIONS} - {plain or NO_OPTIONS}",
                np.array([float(run.options == name) for run in self.runs]),
            )
            for name in others
        ]
        main = [entry for entries in coded.values() for entry in entries]
        products = [
            (f"{name_a} × {name_b}", (a - a.mean()) * (b - b.mean()))
            for one, two in itertools.combinations(FACTORS, 2)
            for (name_a, a), (name_b, b) in itertools.product(coded[one], coded[two])
        ]
        for entries in (main, products):
            for name, column in entries:
                # Centred, so that main effects keep their meaning as averages over the other factors.
                wanted = column - column.mean()
                if np.linalg.matrix_rank(np.stack([*columns, wanted], axis=1)) > len(columns):
                    names.append(name)
                    columns.append(wanted)
        seeds = [run.seed for run in self.runs]
        try:
            return mixed_model(self.areas.aurocs, np.stack(columns, axis=1), tuple(names), seeds)
        except ValueError:
            return None
