"""What runs say together: each task's scale, what every arm did on it, and how the arms compare."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gqn_rl.caveats import caveats
from gqn_rl.findings import (
    CONVERGED,
    ENOUGH,
    NORMALISED,
    ORACLE,
    OURS,
    PROFILE_POINTS,
    RIVAL,
    SCORE,
    SUCCESS,
    THRESHOLD,
    Arm,
    BreakEven,
    Comparison,
    Curve,
    Report,
    Scale,
    Task,
)
from gqn_rl.results import Run, arm_rank, code_span
from gqn_rl.statistics import (
    RESAMPLES,
    Band,
    Bounds,
    Estimate,
    area_under_curve,
    estimate_mean,
    estimate_pooled_mean,
    estimate_ratio,
    mean_band,
    profile_band,
    steps_to,
    value_at,
)

#: Other heights at which the arms are compared, to show what the threshold decides: scores, and success in percent.
OTHER_SCORES: Final = (50.0, 80.0)
OTHER_SUCCESS: Final = 90.0
#: Of the bootstrap. Every estimate has a generator of its own, so none depends on what else is in a report.
SEED: Final = 0
#: At which shares of the common budget scores are tabulated.
SHARES: Final = (0.25, 0.5, 1.0)


def analyse(runs: Sequence[Run], notes: Sequence[str] = ()) -> Report:
    """Every figure of the report on ``runs``, whatever their order; ``notes`` come before its own."""
    by_task: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: (run.task, arm_rank(run.arm), run.seed)):
        by_task[run.task][run.arm].append(run)
    tasks = [_task(name, arms) for name, arms in by_task.items()]
    pooled, profiles = _together([task for task in tasks if task.scale.unit == NORMALISED])
    return Report(tasks, pooled, profiles, [*notes, *caveats(tasks)])


def round_down(value: float) -> str:
    """Rounded down, to two digits after the point below 10, to one above."""
    digits = 2 if value < 10 else 1
    if math.isinf(value):
        return "inf"
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def round_up(value: float) -> str:
    """Rounded up, to two digits after the point below 10, to one above."""
    digits = 2 if value < 10 else 1
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def _task(name: str, groups: Mapping[str, list[Run]]) -> Task:
    groups, left_out = _without_unfinished(groups)
    scale = _scale(groups)
    span = _span(groups)
    arms = {arm: _arm(arm, runs, scale, span) for arm, runs in groups.items()}
    ours = arms.get(OURS)
    comparisons = {}
    if ours is not None and ours.redrawn is not None:
        for other in arms.values():
            if other is not ours and other.redrawn is not None:
                ratio = _ratio((other, other.points), (ours, ours.points), THRESHOLD / 100 * scale.tops)
                comparisons[other.name] = Comparison(ratio, _claim(ratio, ours, other), _elsewhere(other, ours, scale))
    return Task(name, scale, span, arms, comparisons, _break_even(arms), left_out)


def _without_unfinished(groups: Mapping[str, list[Run]]) -> tuple[dict[str, list[Run]], list[Run]]:
    """The runs that count: of an arm with finished ones these alone, or a run that was just begun would censor it."""
    kept, left_out = {}, []
    for arm, runs in groups.items():
        over = [run for run in runs if run.finished is not False]
        kept[arm] = over or runs
        if over:
            left_out += [run for run in runs if run.finished is False]
    return kept, left_out


def _scale(groups: Mapping[str, list[Run]]) -> Scale:
    """Random 0 and the converged oracle 100, where both are known and differ; success where not."""
    everyone = [run for runs in groups.values() for run in runs]
    randoms = [run.facts.random_score for run in everyone if run.facts.random_score is not None]
    random = float(np.mean(np.sort(randoms))) if randoms else None
    oracle, drift, tops = None, math.nan, np.full(1 + RESAMPLES, 100.0)
    if ORACLE in groups:
        oracle = _mean_of_ends(groups[ORACLE], 0)
    reasons = []
    if oracle is None:
        reasons.append(f"there is no run of the oracle, arm {code_span(ORACLE)}")
    if random is None:
        reasons.append("no run says what random actions score")
    if oracle is not None and random is not None:
        if oracle <= random:
            reasons.append(f"the oracle ({oracle:.4g}) is no better than random actions ({random:.4g})")
        elif min(len(run.steps) for run in groups[ORACLE]) >= 2 * CONVERGED:
            drift = 100 * (oracle - _mean_of_ends(groups[ORACLE], CONVERGED)) / (oracle - random)
    if not reasons:
        assert oracle is not None
        assert random is not None
        ends = np.sort(_ends(groups[ORACLE], 0))
        # A stream of its own: an arm of as many seeds would otherwise be resampled in step with the scale.
        chosen = np.random.default_rng([SEED, 1]).integers(len(ends), size=(RESAMPLES, len(ends)))
        means = ends[chosen].mean(axis=1)
        tops[1:] = 100 * (means - random) / (oracle - random)
        return Scale(NORMALISED, random, oracle, drift, "", tops)
    has_success = not any(np.isnan(run.success).any() for run in everyone)
    return Scale(SUCCESS if has_success else SCORE, random, oracle, drift, " and ".join(reasons), tops)


def _mean_of_ends(runs: Sequence[Run], skip: int) -> float:
    return float(np.mean(np.sort(_ends(runs, skip))))


def _ends(runs: Sequence[Run], skip: int) -> NDArray[np.float64]:
    """Of each of ``runs`` the mean over its last :data:`CONVERGED` scores but for the last ``skip``."""
    return np.array([run.scores[: len(run.scores) - skip][-CONVERGED:].mean() for run in runs])


def _span(groups: Mapping[str, list[Run]]) -> tuple[int, int]:
    """The first and the last step at which ours and the oracle were evaluated, or every arm where there is neither.

    By runs that are not known unfinished. Another arm's budget must not decide what is said of these.
    """
    decide = [groups[arm] for arm in (OURS, ORACLE) if arm in groups] or list(groups.values())
    whole = [[run for run in runs if run.finished is not False] for runs in decide]
    counted = [runs for runs in whole if runs] or decide
    last = min(max(int(run.steps[-1]) for run in runs) for runs in counted)
    first = max(int(run.steps[0]) for runs in counted for run in runs)
    return min(first, last), last


def _arm(name: str, runs: list[Run], scale: Scale, span: tuple[int, int]) -> Arm:
    points = [scale.points(run) for run in runs]
    redrawn = steps = wall = None
    if scale.threshold is not None:
        heights = scale.threshold / 100 * scale.tops
        redrawn = _bounds(runs, points, heights, [run.steps for run in runs])
        steps = estimate_mean(redrawn, _rng())
        wall = estimate_mean(_bounds(runs, points, heights, [run.wall_s for run in runs]), _rng())
    has_success = not any(np.isnan(run.success).any() for run in runs)
    successes = [100 * run.success for run in runs] if has_success else None
    at = {}
    for step in sorted({round(share * span[1]) for share in SHARES}):
        there = _values_at(runs, points, step)
        won = None if successes is None else _known_mean(_values_at(runs, successes, step))
        at[step] = (_known_mean(there), won, int(np.sum(~np.isnan(there))))
    areas = np.array([area_under_curve(run.steps, each, *span) for run, each in zip(runs, points, strict=True)])
    final = _values_at(runs, points, span[1])
    final = final[~np.isnan(final)]
    return Arm(
        name,
        runs,
        points,
        redrawn,
        steps,
        wall,
        _curve(runs, points),
        None if successes is None else _curve(runs, successes),
        at,
        areas,
        _known_mean(areas),
        final,
        profile_band([final], PROFILE_POINTS, _rng()) if scale.threshold is not None and len(final) else None,
    )


def _bounds(
    runs: Sequence[Run],
    values: Sequence[NDArray[np.float64]],
    heights: NDArray[np.float64],
    measured: Sequence[NDArray[Any]],
    between: bool = False,
) -> Bounds:
    """What was ``measured`` where ``values`` of each run reached ``heights`` (h,), or at least that: (h, n).

    That is at an evaluation; with ``between``, from the one before on, after which the run may have got there.
    """
    low, high = [], []
    for run, each, measure in zip(runs, values, measured, strict=True):
        index, reached = steps_to(run.steps, each, heights)
        at = measure[index].astype(float)
        before = np.concatenate([[0.0], measure])[index]
        low.append(np.where(each[index] >= heights, before, at) if between else at)
        high.append(np.where(reached, at, np.inf))
    return Bounds(np.stack(low, axis=-1), np.stack(high, axis=-1))


#: An arm, and of each of its runs the values (n,) that are to reach a height.
_Climbing = tuple[Arm, Sequence[NDArray[np.float64]]]


def _ratio(other: _Climbing, ours: _Climbing, heights: NDArray[np.float64]) -> Estimate:
    """The ratio of steps to ``heights`` (h,), its interval with what lies between two evaluations."""

    def steps(of: _Climbing, heights: NDArray[np.float64], between: bool) -> Bounds:
        arm, values = of
        return _bounds(arm.runs, values, heights, [run.steps for run in arm.runs], between)

    ends = estimate_ratio(steps(other, heights, True), steps(ours, heights, True), _rng())
    # Of the evaluations nothing but the ratio is wanted: no resample of where 100 lies.
    first = heights[:1]
    value = estimate_ratio(steps(other, first, False).observed, steps(ours, first, False).observed, _rng())
    return value._replace(lower=ends.lower, upper=ends.upper)


def _elsewhere(other: Arm, ours: Arm, scale: Scale) -> dict[tuple[str, float], Estimate]:
    """The ratio of steps to other heights than the threshold."""
    found = {
        (scale.unit, at): _ratio((other, other.points), (ours, ours.points), at / 100 * scale.tops)
        for at in OTHER_SCORES
    }
    if scale.unit != SUCCESS and other.success is not None and ours.success is not None:
        theirs, own = ((arm, [100 * run.success for run in arm.runs]) for arm in (other, ours))
        found[SUCCESS, OTHER_SUCCESS] = _ratio(theirs, own, np.full(1 + RESAMPLES, OTHER_SUCCESS))
    return found


def _values_at(runs: Sequence[Run], values: Sequence[NDArray[np.float64]], step: int) -> NDArray[np.float64]:
    return np.array([value_at(run.steps, each, step) for run, each in zip(runs, values, strict=True)])


def _known_mean(values: NDArray[np.float64]) -> Estimate | None:
    known = values[~np.isnan(values)]
    return estimate_mean(Bounds.exactly(known), _rng()) if len(known) else None


def _curve(runs: Sequence[Run], values: Sequence[NDArray[np.float64]]) -> Curve:
    """At every step at which a run was evaluated and at least half of them were under way."""
    steps = np.unique(np.concatenate([run.steps for run in runs]))
    table = np.stack([_values_at(runs, values, step) for step in steps], axis=1)
    enough = 2 * np.sum(~np.isnan(table), axis=0) >= len(runs)
    return Curve(steps[enough], mean_band(table[:, enough], _rng()))


def _break_even(arms: Mapping[str, Arm]) -> BreakEven | None:
    if OURS not in arms or RIVAL not in arms:
        return None
    ours, rival = arms[OURS], arms[RIVAL]
    saved = (math.nan, math.nan)
    if ours.steps is not None and rival.steps is not None and math.isfinite(ours.steps.high):
        saved = (rival.steps.low - ours.steps.high, rival.steps.high - ours.steps.low)
    return BreakEven(ours.fact("pretraining_frames"), ours.fact("pretraining_cpu_s"), saved, ours.fact("views"))


def _together(tasks: Sequence[Task]) -> tuple[dict[str, Estimate], dict[str, Band]]:
    """Area under the curve and final scores over ``tasks``, of the arms with a whole run in each; none of one task."""
    areas, profiles = {}, {}
    for name in tasks[0].arms if len(tasks) > 1 else ():
        arms = [task.arms[name] for task in tasks if name in task.arms]
        strata = [arm.areas[~np.isnan(arm.areas)] for arm in arms]
        if len(arms) == len(tasks) and all(map(len, strata)):
            areas[name] = estimate_pooled_mean([Bounds.exactly(each) for each in strata], _rng())
            profiles[name] = profile_band([arm.final for arm in arms], PROFILE_POINTS, _rng())
    return areas, profiles


def _claim(ratio: Estimate, ours: Arm, other: Arm) -> str:
    """What the lower end of the interval allows to say, rounded to the cautious side."""
    if not math.isfinite(ratio.low):
        return f"no claim: {code_span(OURS)} was there before its first step"
    if ratio.low == 0 or (ratio.lower == 0 and ours.reached is not None and ours.reached.censored.any()):
        return f"no claim: {code_span(OURS)} is censored"
    if math.isnan(ratio.lower):
        return "no claim: an interval takes two seeds of both"
    if ratio.lower == 0:
        return f"no claim: {code_span(other.name)} was there by its first evaluation"
    if 1 <= ratio.lower < 1.01:
        said = f"{code_span(OURS)} needs no more steps"
    elif ratio.lower > 1:
        said = f"{code_span(OURS)} needs at least {round_down(ratio.lower)} times fewer steps"
    else:
        said = f"{code_span(OURS)} needs at most {round_up(1 / ratio.lower)} times the steps"
    fewest = min(len(ours.runs), len(other.runs))
    return said + ("" if fewest >= ENOUGH else f" (provisional: {fewest} seeds)")


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
