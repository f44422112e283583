"""Statistics of data efficiency in plain numpy: how many steps a run needed, and how sure a comparison may be of it.

Interquartile mean, stratified bootstrap and performance profile are those of Agarwal et al., "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (NeurIPS 2021), sections 4.1 to 4.3; over several tasks they are
means of each task's.

A run that never got where it should is right-censored: its true value lies somewhere above a bound. One that is only
looked at every so many steps got there somewhere between two looks. Nothing is imputed. Every such value is carried as
the two :class:`Bounds` between which it lies, ``[x, inf)``, ``[w, x]``, and ``[x, x]`` where it was observed, and every
estimate is made twice, from the lower and from the upper ones. What is said of it is then true whatever was not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

#: Share of the bootstrap's distribution that an interval holds.
CONFIDENCE: Final = 0.95
#: Resamples of an estimate. The end of an interval is then an order statistic with 249 beyond it.
RESAMPLES: Final = 10_000
#: Evaluations in a row that must be at the threshold or above before it counts as reached.
HELD: Final = 3


class Bounds(NamedTuple):
    """Values (..., n), each known to lie from ``low`` to ``high``: equal if observed, ``high`` inf if right-censored.

    Estimates take (n,), or (1 + RESAMPLES, n) where what is measured depends on something that is uncertain itself,
    such as a scale: first the values as they are, then those that each resample of it would have led to.
    """

    low: Floats
    high: Floats

    @classmethod
    def exactly(cls, values: ArrayLike) -> Bounds:
        """Values that were observed."""
        array = np.asarray(values, float)
        return cls(array, array)

    @property
    def observed(self) -> Bounds:
        """The values as they are, (n,), without those of resamples."""
        return Bounds(self.low[0], self.high[0]) if self.low.ndim > 1 else self

    @property
    def censored(self) -> NDArray[np.bool_]:
        """Which values have no upper bound."""
        return np.isinf(self.high)


class Estimate(NamedTuple):
    """A statistic, which lies from ``low`` to ``high`` (equal, unless runs were censored), and its interval."""

    low: float
    high: float
    lower: float  #: end of the bootstrap interval; nan where there is none, which takes two runs of each stratum
    upper: float  #: the other end; inf where censoring leaves it open


# Runs ---------------------------------------------------------------------------------------------------------


def steps_to(steps: ArrayLike, scores: ArrayLike, threshold: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The evaluation at which a run reached ``threshold``, as an index, and whether it reached it at all.

    Reached is it at the first of :data:`HELD` evaluations in a row that are at ``threshold`` or above. A run that never
    does is censored: at its last evaluation, or, where the last one or two are at ``threshold`` or above, at the first
    of these, since it may have got there and only its end hides it.

    Args:
        steps: (n,) of the evaluations, rising; n >= 1.
        scores: (n,) of the same evaluations.
        threshold: in units of ``scores``; of any shape, which is that of both results.
    """
    height, wanted, count = np.asarray(scores, float), np.asarray(threshold, float), len(np.asarray(steps))
    if height.shape != (count,) or not count:
        raise ValueError(f"steps and scores must be of one length, at least 1; got {count} and {height.shape}")
    held = np.lib.stride_tricks.sliding_window_view(height, HELD).min(axis=-1) if count >= HELD else height[:0]
    index = np.searchsorted(np.maximum.accumulate(held), wanted)
    reached = index < len(held)
    # From each of the last evaluations on, how low the run was to its end: fewer than HELD, or it had reached it.
    ends = np.minimum.accumulate(height[:-HELD:-1])
    at_end = np.sum(ends >= wanted[..., None], axis=-1)
    return np.where(reached, index, count - np.maximum(at_end, 1)), reached


def value_at(steps: ArrayLike, scores: ArrayLike, step: float) -> float:
    """The score (n,) of the last evaluation at or before ``step``; nan before the first and beyond the last one."""
    at = np.asarray(steps)
    if not at[0] <= step <= at[-1]:
        return float("nan")
    return float(np.asarray(scores)[np.searchsorted(at, step, side="right") - 1])


def area_under_curve(steps: ArrayLike, scores: ArrayLike, first: float, last: float) -> float:
    """Mean height of the curve through (steps (n,), scores (n,)), straight between evaluations, from first to last.

    In units of ``scores``; nan where the evaluations do not span ``first`` to ``last``.
    """
    at, height = np.asarray(steps, float), np.asarray(scores, float)
    if not at[0] <= first <= last <= at[-1]:
        return float("nan")
    ends = np.interp([first, last], at, height)
    if first == last:
        return float(ends[0])
    inside = (at > first) & (at < last)
    x = np.concatenate([[first], at[inside], [last]])
    y = np.concatenate([ends[:1], height[inside], ends[1:]])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (last - first))


# Groups of runs -----------------------------------------------------------------------------------------------


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Floats:
    """The mean of what is left when the lowest and the highest quarter are left out, along ``axis``.

    A quarter of n values is rounded down, as in rliable (scipy's ``trim_mean`` at 0.25): fewer than four values have
    their plain mean. Values may be inf.
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, float), axis, -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Performance profile: the share of ``scores`` (..., n) at or above each of ``thresholds`` (t,), as (..., t)."""
    return (np.asarray(scores, float)[..., None, :] >= np.asarray(thresholds, float)[:, None]).mean(axis=-1)


# Bootstrap ----------------------------------------------------------------------------------------------------


def resample(runs: NDArray[Any], rng: np.random.Generator, resamples: int = RESAMPLES) -> NDArray[Any]:
    """Draws (resamples, n, ...) of n ``runs`` (n, ...) with replacement: the bootstrap of one stratum."""
    return runs[rng.integers(len(runs), size=(resamples, len(runs)))]


def percentile_interval(samples: Floats) -> tuple[Floats, Floats]:
    """Ends of the central interval of ``samples`` (resamples, ...) that holds :data:`CONFIDENCE` of them.

    Order statistics, the outer ones, never between two: between a number and inf there is nothing to interpolate.
    """
    ordered = np.sort(samples, axis=0)
    beyond = (1 - CONFIDENCE) / 2 * (len(ordered) - 1)
    return ordered[int(np.floor(beyond))], ordered[len(ordered) - 1 - int(np.floor(beyond))]


def estimate_mean(values: Bounds, rng: np.random.Generator) -> Estimate:
    """Interquartile mean of ``values``, n >= 1, whatever their order."""
    return _estimate([values], lambda lows, highs: (interquartile_mean(lows[0]), interquartile_mean(highs[0])), rng)


def estimate_pooled_mean(strata: Sequence[Bounds], rng: np.random.Generator) -> Estimate:
    """Mean over ``strata`` (n_i,) of their interquartile means, each resampled by itself.

    Every stratum weighs the same, however many runs it has. In rliable the runs of all tasks are trimmed together,
    which takes as many of each: with five of one task and one of another, the one would never count.
    """

    def pooled(lows: list[Floats], highs: list[Floats]) -> tuple[Floats, Floats]:
        least, most = (np.mean([interquartile_mean(each) for each in ends], axis=0) for ends in (lows, highs))
        return least, most

    return _estimate(strata, pooled, rng)


def estimate_ratio(numerator: Bounds, denominator: Bounds, rng: np.random.Generator) -> Estimate:
    """Ratio of the interquartile means of two groups of n and m runs, positive, each resampled by itself.

    ``lower`` is what may be claimed: for the least that the numerator's censored runs can have needed, and for the most
    that the denominator's can. It is 0 where a censored denominator leaves nothing to claim.
    """

    def ratio(lows: list[Floats], highs: list[Floats]) -> tuple[Floats, Floats]:
        least, most = map(interquartile_mean, lows), map(interquartile_mean, highs)
        (above_low, below_low), (above_high, below_high) = least, most
        with np.errstate(divide="ignore", invalid="ignore"):  # a run that was there before its first step
            return above_low / below_high, above_high / below_low

    return _estimate([numerator, denominator], ratio, rng)


def _estimate(
    strata: Sequence[Bounds],
    statistic: Callable[[list[Floats], list[Floats]], tuple[Floats, Floats]],
    rng: np.random.Generator,
) -> Estimate:
    """Bounds and interval of ``statistic``, which maps lower and upper values (..., n_i) to one of each."""
    ordered = []
    for low, high in strata:
        order = np.lexsort((high, low), axis=-1)  # the order of the runs must not decide what is drawn
        ordered.append(np.stack([np.take_along_axis(each, order, axis=-1) for each in (low, high)], axis=-1))

    def both(*drawn: Floats) -> Floats:
        return np.stack(statistic([each[..., 0] for each in drawn], [each[..., 1] for each in drawn]), axis=-1)

    low, high = both(*(values[0] if values.ndim > 2 else values for values in ordered))
    if min(values.shape[-2] for values in ordered) < 2:
        return Estimate(float(low), float(high), float("nan"), float("nan"))
    lower, upper = percentile_interval(both(*(_resampled(values, rng) for values in ordered)))
    return Estimate(float(low), float(high), float(lower[0]), float(upper[1]))


def _resampled(values: Floats, rng: np.random.Generator) -> Floats:
    """Resamples (RESAMPLES, n, 2) of ``values``: (n, 2), or (1 + RESAMPLES, n, 2) with those of each resample."""
    chosen = resample(np.arange(values.shape[-2]), rng)
    return values[chosen] if values.ndim == 2 else np.take_along_axis(values[1:], chosen[..., None], axis=1)


class Band(NamedTuple):
    """A statistic at each of t places, and the ends of its interval there; nan where fewer than two runs give one."""

    middle: Floats
    lower: Floats
    upper: Floats


def mean_band(values: Floats, rng: np.random.Generator, resamples: int = 2_000) -> Band:
    """Interquartile mean of the runs at each place, with pointwise intervals.

    Args:
        values: (n, t); nan where a run has no value, at least one in a column that is none.
        rng: draws.
        resamples: of each interval; fewer than an estimate's, for a picture.
    """
    middle, lower, upper = (np.full(values.shape[1], np.nan) for _ in range(3))
    ordered = np.sort(values, axis=0)  # nan goes last
    counts = np.sum(~np.isnan(values), axis=0)
    for count in np.unique(counts):
        here = counts == count
        known = ordered[:count, here]
        middle[here] = interquartile_mean(known, axis=0)
        if count > 1:
            means = interquartile_mean(resample(known, rng, resamples), axis=1)
            lower[here], upper[here] = percentile_interval(means)
    return Band(middle, lower, upper)


def profile_band(
    strata: Sequence[Floats], thresholds: Floats, rng: np.random.Generator, resamples: int = 2_000
) -> Band:
    """Performance profile at ``thresholds`` (t,), with pointwise intervals: the mean of those of ``strata`` (n_i,)."""

    def shares(drawn: Sequence[Floats]) -> Floats:
        return np.mean([profile(each, thresholds) for each in drawn], axis=0)

    ordered = [np.sort(stratum) for stratum in strata]
    middle = shares(ordered)
    if min(map(len, ordered)) < 2:
        return Band(middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan))
    return Band(middle, *percentile_interval(shares([resample(each, rng, resamples) for each in ordered])))
