"""Laws of the statistics: hand-computed cases, what censoring may not change, and nothing that the order decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqn_rl.statistics import (
    HELD,
    RESAMPLES,
    Bounds,
    area_under_curve,
    estimate_mean,
    estimate_pooled_mean,
    estimate_ratio,
    interquartile_mean,
    mean_band,
    percentile_interval,
    profile,
    profile_band,
    resample,
    steps_to,
    value_at,
)

STEPS = np.arange(10, 90, 10)  # eight evaluations


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def censor(values: list[float], budget: float) -> Bounds:
    low = np.minimum(values, budget)
    return Bounds(low, np.where(np.array(values) > budget, np.inf, low))


# One run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "step", "reached"),
    [
        ([0, 50, 90, 90, 90, 95, 99, 99], 30, True),  # 90 itself counts
        ([0, 95, 95, 80, 95, 95, 95, 20], 50, True),  # a dip begins anew; a later one does not take it back
        ([95, 95, 95, 0, 0, 0, 0, 0], 10, True),
        ([0, 0, 0, 0, 0, 91, 92, 93], 60, True),
        ([0, 95, 95, 0, 95, 95, 0, 50], 80, False),  # never three in a row
        ([0, 0, 0, 0, 0, 0, 95, 95], 70, False),  # it may have got there at 70: no later bound would be true
        ([0, 0, 0, 0, 0, 0, 0, 95], 80, False),
        ([89.9] * 8, 80, False),
    ],
)
def test_steps_to_a_threshold_by_hand(scores: list[float], step: int, reached: bool) -> None:
    index, found = steps_to(STEPS, scores, 90)
    assert (STEPS[index], found) == (step, reached)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 89.0, 90.0, 100.0]), min_size=1, max_size=20), st.integers(0, 10))
def test_a_censored_run_is_never_said_to_need_more_than_it_turns_out_to(scores: list[float], more: int) -> None:
    longer = scores + [100.0] * more
    index, reached = steps_to(range(len(scores)), scores, 90)
    later, reached_later = steps_to(range(len(longer)), longer, 90)
    assert later == index if reached else later >= index
    assert reached_later or not reached


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 89.0, 90.0, 100.0]), min_size=1, max_size=20),
    st.lists(st.sampled_from([-1.0, 0.0, 89.5, 90.0, 95.0, 101.0]), max_size=6),
)
def test_steps_to_many_thresholds_are_those_of_going_through_the_run(
    scores: list[float], thresholds: list[float]
) -> None:
    def slowly(threshold: float) -> tuple[int, bool]:
        run = 0
        for index, score in enumerate(scores):
            run = run + 1 if score >= threshold else 0
            if run == HELD:
                return index - HELD + 1, True
        return len(scores) - max(run, 1), False

    index, reached = steps_to(range(len(scores)), scores, thresholds)
    assert [*zip(index.tolist(), reached.tolist(), strict=True)] == [slowly(threshold) for threshold in thresholds]


def test_scores_must_belong_to_steps() -> None:
    with pytest.raises(ValueError, match="one length"):
        steps_to([1, 2], [1.0], 90)
    with pytest.raises(ValueError, match="at least 1"):
        steps_to([], [], 90)


def test_value_at_a_step_is_that_of_the_last_evaluation() -> None:
    found = [value_at([10, 20, 30], [1.0, 2.0, 3.0], step) for step in (9, 10, 19, 20, 30, 31)]
    np.testing.assert_array_equal(found, [np.nan, 1, 1, 2, 3, np.nan])


def test_area_under_a_curve_by_hand() -> None:
    steps, scores = [0, 10, 20], [0.0, 100.0, 100.0]
    assert area_under_curve(steps, scores, 0, 20) == 75
    assert area_under_curve(steps, scores, 5, 10) == 75
    assert area_under_curve(steps, scores, 5, 5) == 50
    assert math.isnan(area_under_curve(steps, scores, 0, 21))
    assert area_under_curve([0, 7, 20], [4.0, 4.0, 4.0], 3, 18) == pytest.approx(4)


# Groups -------------------------------------------------------------------------------------------------------


def test_interquartile_mean_of_a_known_matrix() -> None:
    matrix = np.array([[7, 0, 1, 6, 2, 5, 3, 4], [100, 1, 1, 1, 3, 3, 3, -100]], float)
    np.testing.assert_array_equal(interquartile_mean(matrix), [3.5, 2.0])  # of 2 3 4 5, and of 1 1 3 3
    np.testing.assert_array_equal(interquartile_mean(matrix.T, axis=0), [3.5, 2.0])
    assert interquartile_mean([1, 2, 3, 4, 100]) == 3
    assert interquartile_mean([1, 2, 6]) == 3
    assert interquartile_mean([1, 2, 3, math.inf]) == 2.5
    assert interquartile_mean([1, 2, math.inf, math.inf]) == math.inf


def test_profile_by_hand() -> None:
    np.testing.assert_array_equal(profile([0, 50, 50, 100], [0, 50, 50.1, 100, 101]), [1, 0.75, 0.25, 0.25, 0])


# Bootstrap ----------------------------------------------------------------------------------------------------


def test_percentile_interval_is_made_of_order_statistics() -> None:
    lower, upper = percentile_interval(np.random.default_rng(1).permutation(10_000).astype(float))
    assert (lower, upper) == (249, 9750)
    half = np.where(np.arange(1000) < 500, 3.0, np.inf)
    assert percentile_interval(half) == (3, math.inf)


def test_resamples_are_draws_with_replacement() -> None:
    """Of two values all resamples are known: means 0, 1/2 and 1 in a quarter, a half and a quarter."""
    drawn = resample(np.array([[0.0, 10.0], [1.0, 11.0]]), rng(), 20_000)
    assert drawn.shape == (20_000, 2, 2)
    np.testing.assert_array_equal(drawn[..., 1], drawn[..., 0] + 10)  # a run is drawn whole
    shares = [np.mean(drawn[..., 0].mean(axis=1) == value) for value in (0, 0.5, 1)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.015)


def test_ratio_of_degenerate_data_is_exact() -> None:
    ratio = estimate_ratio(Bounds.exactly([60.0] * 5), Bounds.exactly([5.0] * 5), rng())
    assert ratio == (12, 12, 12, 12)
    bound = estimate_ratio(censor([99.0] * 5, 60), Bounds.exactly([5.0] * 5), rng())
    assert bound == (12, math.inf, 12, math.inf)


def test_ratio_against_every_resample_of_two_runs() -> None:
    """Two runs a side: nine ratios, whose tails of a sixteenth each are wider than a fortieth."""
    ratio = estimate_ratio(Bounds.exactly([20.0, 40.0]), Bounds.exactly([4.0, 5.0]), rng())
    assert ratio == (30 / 4.5, 30 / 4.5, 20 / 5, 40 / 4)


def test_nothing_is_claimed_beside_a_censored_denominator() -> None:
    ratio = estimate_ratio(Bounds.exactly([60.0] * 5), censor([5, 5, 5, 99, 99], 50), rng())
    assert ratio.lower == 0
    assert ratio.low == 0
    assert ratio.upper == 12


def test_one_censored_run_of_many_leaves_a_claim() -> None:
    values = censor([5.0] * 39 + [99.0], 50)
    assert estimate_mean(values, rng()) == (5, 5, 5, 5)
    assert estimate_ratio(Bounds.exactly([60.0] * 5), values, rng()) == (12, 12, 12, 12)


def test_values_of_each_resample_are_drawn_with_it() -> None:
    """The same values for every resample change nothing; other ones are what the interval is made of."""
    values = censor([10.0, 20.0, 30.0, 99.0], 50)
    same = Bounds(*(np.tile(each, (1 + RESAMPLES, 1)) for each in values))
    assert estimate_mean(same, rng()) == estimate_mean(values, rng())
    low = np.concatenate([[[10.0, 10.0]], np.full((RESAMPLES // 2, 2), 8.0), np.full((RESAMPLES // 2, 2), 14.0)])
    assert estimate_mean(Bounds.exactly(low), rng()) == (10, 10, 8, 14)
    # Of a ratio both sides belong to the same resample: 8 / 8 and 14 / 14, never 8 / 14.
    assert estimate_ratio(Bounds.exactly(low), Bounds.exactly(low), rng()) == (1, 1, 1, 1)


def test_one_run_has_no_interval() -> None:
    ratio = estimate_ratio(Bounds.exactly([60.0]), Bounds.exactly([5.0, 6.0]), rng())
    assert ratio.low == pytest.approx(60 / 5.5)
    assert math.isnan(ratio.lower)
    assert math.isnan(ratio.upper)


runs = st.lists(st.integers(1, 100).map(float), min_size=2, max_size=8)


@settings(max_examples=40, deadline=None)
@given(runs, runs, st.integers(1, 100))
def test_censoring_only_widens(other: list[float], ours: list[float], budget: int) -> None:
    """Whatever censored runs would have needed, what is said without knowing it stays true."""
    truth = estimate_ratio(Bounds.exactly(other), Bounds.exactly(ours), rng())
    known = estimate_ratio(censor(other, budget), censor(ours, budget), rng())
    slack = 1e-9
    assert known.low <= truth.low + slack
    assert truth.high <= known.high + slack
    assert known.lower <= truth.lower + slack
    assert truth.upper <= known.upper + slack


@settings(max_examples=40, deadline=None)
@given(st.data(), runs, runs)
def test_order_of_seeds_and_unit_of_steps_do_not_matter(
    data: st.DataObject, other: list[float], ours: list[float]
) -> None:
    first = estimate_ratio(censor(other, 70), Bounds.exactly(ours), rng())
    shuffled = data.draw(st.permutations(other)), data.draw(st.permutations(ours))
    assert estimate_ratio(censor(shuffled[0], 70), Bounds.exactly(shuffled[1]), rng()) == first
    doubled = [4 * value for value in other], [4 * value for value in ours]  # a power of two: exact in floating point
    assert estimate_ratio(censor(doubled[0], 280), Bounds.exactly(doubled[1]), rng()) == first
    mean = estimate_mean(Bounds.exactly(other), rng())
    assert estimate_mean(Bounds.exactly(shuffled[0]), rng()) == mean
    assert estimate_mean(Bounds.exactly(doubled[0]), rng()) == tuple(4 * value for value in mean)


@settings(max_examples=40, deadline=None)
@given(runs)
def test_interval_holds_its_estimate_and_stays_among_the_runs(values: list[float]) -> None:
    found = estimate_mean(Bounds.exactly(values), rng())
    assert min(values) <= found.lower <= found.low == found.high <= found.upper <= max(values)


def test_tasks_weigh_the_same_however_many_runs_they_have() -> None:
    """Trimmed together, the one run at 0 would not count beside the four at 100."""
    many, few = [100.0, 100.0, 100.0, 100.0], [0.0]
    assert estimate_pooled_mean([Bounds.exactly(many), Bounds.exactly(few)], rng())[:2] == (50, 50)
    assert estimate_pooled_mean([Bounds.exactly(many), Bounds.exactly(few * 4)], rng()) == (50, 50, 50, 50)
    alone = censor([60.0, 70.0, 80.0, 99.0], 90)
    assert estimate_pooled_mean([alone], rng()) == estimate_mean(alone, rng())
    points = np.array([0.0, 50.0, 100.0])
    np.testing.assert_allclose(profile_band([np.array(many), np.array(few)], points, rng()).middle, [1, 0.5, 0.5])


def test_same_generator_same_interval() -> None:
    values = Bounds.exactly(np.random.default_rng(3).normal(size=7))
    first = estimate_mean(values, np.random.default_rng(1))
    assert estimate_mean(values, np.random.default_rng(1)) == first
    assert first.low == first.high


# Bands --------------------------------------------------------------------------------------------------------


def test_band_where_runs_are_missing() -> None:
    values = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, np.nan], [8.0, np.nan, np.nan]])
    middle, lower, upper = mean_band(values, rng())
    np.testing.assert_array_equal(middle, [4, 3, 3])
    np.testing.assert_array_equal(lower[:2], [1, 2])
    np.testing.assert_array_equal(upper[:2], [8, 4])
    assert np.isnan(lower[2])
    assert np.isnan(upper[2])
    np.testing.assert_array_equal(mean_band(values[::-1], rng()), (middle, lower, upper))


def test_band_is_the_estimate_at_each_place() -> None:
    values = np.random.default_rng(2).normal(size=(6, 4))
    band = mean_band(values, rng(), resamples=10_000)
    for column in range(4):
        estimate = estimate_mean(Bounds.exactly(values[:, column]), rng())
        assert (band.middle[column], band.lower[column], band.upper[column]) == pytest.approx(
            (estimate.low, estimate.lower, estimate.upper), abs=1e-12
        )


def test_profile_band_falls_from_all_to_none() -> None:
    strata = [np.array([10.0, 50.0, 95.0]), np.array([60.0, 99.0])]
    middle, lower, upper = profile_band(strata, np.array([0.0, 50.0, 97.0, 100.0]), rng())
    np.testing.assert_allclose(middle, [1, (2 / 3 + 1) / 2, (0 + 1 / 2) / 2, 0])
    assert np.all(lower <= middle)
    assert np.all(middle <= upper)
    assert (lower[0], upper[-1]) == (1, 0)
