"""Laws of the report: figures by hand, what is not known is said, and the same CSV files give the same bytes."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gqn_rl.cli import main
from gqn_rl.comparison import SEED, analyse
from gqn_rl.config import UserError
from gqn_rl.findings import CURVES_PICTURE, NORMALISED, SCORE, STEPS_PICTURE, SUCCESS, Report, Task
from gqn_rl.report import PAGE, RUNS, TABLES, to_markdown, write_tables
from gqn_rl.report_figures import draw_figures
from gqn_rl.results import COLUMNS, read_results
from gqn_rl.statistics import resample

#: Of a made-up task: random actions score this, the oracle that.
RANDOM, ORACLE = -8.0, 24.0
EVALUATIONS = 10


def write_run(
    folder: Path,
    arm: str,
    seed: int,
    points: Sequence[float],
    *,
    task: str = "reach",
    every: int = 100,
    success: float | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """A run whose scores are ``points`` of the scale; success follows them unless it is given."""
    path = folder / task / f"{arm}-seed{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(COLUMNS)]
    for index, value in enumerate(points, 1):
        score = RANDOM + (ORACLE - RANDOM) * value / 100
        won = min(max(value / 100, 0), 1) if success is None else success
        lines.append(f"{task},{arm},{seed},{index * every},{score!r},{won},{index * 3.0}")
    path.write_text("\n".join(lines) + "\n")
    known = {"random_score": RANDOM, "budget": every * len(points)} if facts is None else facts
    if known:
        path.with_suffix(".json").write_text(json.dumps(known))
    return path


def there_at(index: int) -> list[float]:
    """Points of a run that is at 100 from evaluation ``index`` (from 1) on."""
    return [100.0 if place >= index else 25.0 for place in range(1, EVALUATIONS + 1)]


def write_task(folder: Path, task: str = "reach", seeds: int = 5) -> None:
    """State there at 100 steps, gqn at 200, pixels_aug at 800 (600 of seed 0), pixels never."""
    common = {"random_score": RANDOM, "budget": 1_000, "updates": 1_000, "versions": {"torch": "2.13.0"}}
    ours = {"replay_bytes": 2**20, "pretraining_frames": 2_400, "pretraining_cpu_s": 7_200, "views": 2}
    for seed in range(seeds):
        write_run(folder, "state", seed, there_at(1), task=task, facts=common)
        write_run(folder, "gqn", seed, there_at(2), task=task, facts={**common, **ours})
        aug = there_at(6 if seed == 0 else 8)
        write_run(folder, "pixels_aug", seed, aug, task=task, facts={**common, "replay_bytes": 50 * 2**20})
        write_run(folder, "pixels", seed, [25.0] * EVALUATIONS, task=task, facts=common)


def report_on(folder: Path) -> Report:
    return analyse(*read_results(folder))


def only_task(folder: Path) -> Task:
    (task,) = report_on(folder).tasks
    return task


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(task: Task) -> dict[str, Any]:
    """Every figure of a task that is on its scale."""
    return {
        arm.name: (arm.steps, arm.wall, arm.area, *arm.at.values(), task.comparisons.get(arm.name))
        for arm in task.arms.values()
    }


# By hand ------------------------------------------------------------------------------------------------------


def test_figures_by_hand(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = only_task(tmp_path)
    assert task.scale.unit == NORMALISED
    assert (task.scale.random, task.scale.oracle, task.scale.drift) == (RANDOM, ORACLE, 0)
    assert list(task.arms) == ["state", "gqn", "pixels_aug", "pixels"]
    steps = {name: arm.steps for name, arm in task.arms.items()}
    assert steps["state"] == (100, 100, 100, 100)
    assert steps["gqn"] == (200, 200, 200, 200)
    assert steps["pixels"] == (1_000, math.inf, 1_000, math.inf)
    aug = steps["pixels_aug"]
    assert aug is not None
    assert (aug.low, aug.high, aug.upper) == (800, 800, 800)  # of 600 800 800 800 800, the ends left out
    assert 600 < aug.lower < 800
    claims = {name: comparison.claim for name, comparison in task.comparisons.items()}
    assert claims["state"] == "no claim: `state` was there by its first evaluation"
    assert claims["pixels"] == "`gqn` needs at least 5.00 times fewer steps"
    assert task.comparisons["pixels"].ratio == (5, math.inf, 5, math.inf)
    assert task.break_even is not None
    assert task.break_even.saved == (600, 600)
    assert task.break_even.tasks(1) == (4, 4)
    assert task.break_even.tasks(task.break_even.views) == (2, 2)
    gqn = task.arms["gqn"]
    assert gqn.wall == (6, 6, 6, 6)  # three seconds an evaluation
    assert gqn.area is not None
    assert gqn.area.low == pytest.approx((62.5 * 100 + 100 * 800) / 900)
    assert list(gqn.at) == [250, 500, 1_000]
    score, success, count = task.arms["pixels_aug"].at[500]
    assert score is not None
    assert success is not None
    assert (score.low, success.low, count) == (25, 25, 5)


def test_page_says_what_was_found(tmp_path: Path) -> None:
    write_task(tmp_path)
    page = to_markdown(report_on(tmp_path))
    assert "- `reach`, beside `pixels`: `gqn` needs at least 5.00 times fewer steps.\n" in page
    assert "| `pixels` | 5 | 0 of 5 | 100 | >= 1,000 | [1,000, open] | >= 5.00 | [5.00, open] |" in page
    assert "| `gqn` | 5 | 5 of 5 | 100 | 200 | [200, 200] | 1 | - |" in page
    assert "| `reach` | 2,400 | 2.00 | 600 | 4.0 | 2 | 2.0 |" in page
    assert re.search(r"\| `pixels_aug` .* \| 50.0 \| 51.20 \| 50 \|", page)  # MiB, of 1,000 steps
    assert "torch: `2.13.0`" in page
    assert "fewer than 5 seeds" not in page
    assert "no runs of `gqn_finetuned`, `autoencoder`, `untrained`." in page


def test_claim_is_rounded_to_the_cautious_side(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, "state", seed, there_at(2))
        write_run(tmp_path, "gqn", seed, there_at(3))
        write_run(tmp_path, "pixels", seed, there_at(9))
    task = only_task(tmp_path)
    assert task.comparisons["pixels"].claim == "`gqn` needs at least 2.66 times fewer steps"  # 8 / 3
    assert task.comparisons["state"].claim == "`gqn` needs at most 3.00 times the steps"


def test_interval_of_a_ratio_holds_what_lies_between_evaluations(tmp_path: Path) -> None:
    """Every run was there after the evaluation before; one that never was had its last evaluation's steps."""
    for seed in range(5):
        write_run(tmp_path, "state", seed, there_at(2))
        write_run(tmp_path, "gqn", seed, there_at(4))
        write_run(tmp_path, "pixels_aug", seed, there_at(8))
        write_run(tmp_path, "pixels", seed, [25.0] * EVALUATIONS)
        write_run(tmp_path, "untrained", seed, [*[25.0] * (EVALUATIONS - 1), 95.0])  # it may have got there at the end
    comparisons = only_task(tmp_path).comparisons
    assert comparisons["pixels_aug"].ratio == (2, 2, 700 / 400, 800 / 300)
    assert comparisons["state"].ratio == (0.5, 0.5, 100 / 400, 200 / 300)
    assert comparisons["pixels"].ratio == (2.5, math.inf, 2.5, math.inf)
    assert comparisons["untrained"].ratio == (2.5, math.inf, 900 / 400, math.inf)


def test_claim_from_an_unclear_comparison_is_an_upper_bound(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, "state", seed, there_at(1))
        write_run(tmp_path, "gqn", seed, there_at(2 if seed % 2 else 4))
        write_run(tmp_path, "pixels", seed, there_at(2 if seed % 2 else 6))
    comparison = only_task(tmp_path).comparisons["pixels"]
    assert comparison.ratio.lower < 1 < comparison.ratio.upper
    assert "at most" in comparison.claim


# What is missing ----------------------------------------------------------------------------------------------


def test_censored_gqn_claims_nothing(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, "state", seed, there_at(1))
        write_run(tmp_path, "gqn", seed, [25.0] * EVALUATIONS)
        write_run(tmp_path, "pixels_aug", seed, there_at(3), facts={})
    report = report_on(tmp_path)
    for comparison in report.tasks[0].comparisons.values():
        assert comparison.claim == "no claim: `gqn` is censored"
    assert "not known | [0.00, 0.30]" in to_markdown(report)


def test_one_seed_has_figures_and_no_claim(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=1)
    report = report_on(tmp_path)
    page = to_markdown(report)
    assert report.tasks[0].comparisons["pixels"].claim == "no claim: an interval takes two seeds of both"
    assert "| 200 | one seed | 1 | - |" in page
    assert "fewer than 5 seeds: `state` 1, `gqn` 1, `pixels_aug` 1, `pixels` 1." in page
    draw_figures(tmp_path / "out", report)


def test_few_seeds_make_a_claim_provisional(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=3)
    assert only_task(tmp_path).comparisons["pixels"].claim.endswith("5.00 times fewer steps (provisional: 3 seeds)")


def test_without_oracle_success_is_measured(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, "gqn", seed, there_at(2))
        write_run(tmp_path, "pixels", seed, there_at(4))
    report = report_on(tmp_path)
    assert report.tasks[0].scale.unit == SUCCESS
    assert report.tasks[0].comparisons["pixels"].ratio.low == 2
    page = to_markdown(report)
    assert "not normalised, for there is no run of the oracle, arm `state`" in page
    assert "threshold is 90 % success" in page
    assert "No task has runs of both `gqn` and `pixels_aug`." in page


def test_without_random_score_or_success_there_is_no_threshold(tmp_path: Path) -> None:
    for arm in ("state", "gqn"):
        write_run(tmp_path, arm, 0, there_at(2), success=math.nan, facts={})
    report = report_on(tmp_path)
    task = report.tasks[0]
    assert (task.scale.unit, task.scale.threshold, task.comparisons) == (SCORE, None, {})
    page = to_markdown(report)
    assert "no run says what random actions score; scores are raw returns, and there is no threshold." in page
    assert "whether all runs are finished is not known of `state`, `gqn`" in page
    assert "1 run does not say" not in page
    assert "2 runs do not say what they ran with" in page
    assert report.pictures == [CURVES_PICTURE]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STEPS_PICTURE).touch()  # an earlier report's
    assert [path.name for path in draw_figures(tmp_path / "out", report)] == [CURVES_PICTURE]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [CURVES_PICTURE]


def test_oracle_no_better_than_chance_defines_no_scale(tmp_path: Path) -> None:
    write_run(tmp_path, "state", 0, [0.0] * EVALUATIONS)
    write_run(tmp_path, "gqn", 0, there_at(2))
    assert "is no better than random actions" in only_task(tmp_path).scale.why


def test_oracle_that_still_learns_is_noticed(tmp_path: Path) -> None:
    write_run(tmp_path, "state", 0, [10.0 * place for place in range(1, EVALUATIONS + 1)])
    task = only_task(tmp_path)
    assert task.scale.drift == pytest.approx(100 * (90 - 60) / 90)
    assert "may not have converged: its last 3 evaluations are +33.3 points" in to_markdown(report_on(tmp_path))


def test_random_scores_that_differ_are_noticed(tmp_path: Path) -> None:
    write_task(tmp_path)
    write_run(tmp_path, "untrained", 0, there_at(9), facts={"random_score": RANDOM - 1})
    assert "random actions score from -9 to -8" in to_markdown(report_on(tmp_path))


def test_unfinished_runs_are_marked_and_censored_where_they_stand(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=2)
    for seed, evaluations in enumerate((4, 6)):
        facts = {"random_score": RANDOM, "budget": 1_000}
        write_run(tmp_path, "pixels", seed, [25.0] * evaluations, facts=facts)
    report = report_on(tmp_path)
    arm = report.tasks[0].arms["pixels"]
    assert arm.reached is not None
    assert list(arm.reached.low) == [400, 600]
    assert arm.reached.censored.all()
    assert report.tasks[0].span == (100, 1_000)
    page = to_markdown(report)
    assert "`pixels` seed 0 is unfinished, at 400 of 1,000 steps." in page
    assert "| `pixels` | 2 (2 unfinished) | 0 of 2 |" in page
    assert "(1 of 2 runs)" in page


def test_an_unfinished_run_beside_finished_ones_changes_nothing_but_a_note(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=4)
    before = only_task(tmp_path)
    # There early, and censored early: either would move a mean.
    write_run(tmp_path, "gqn", 4, there_at(1)[:4], facts={"random_score": RANDOM, "budget": 1_000})
    write_run(tmp_path, "pixels", 4, [25.0] * 4, facts={"random_score": RANDOM, "budget": 1_000})
    report = report_on(tmp_path)
    assert numbers(report.tasks[0]) == numbers(before)
    page = to_markdown(report)
    assert "`pixels` seed 4 is unfinished, at 400 of 1,000 steps, and left out." in page
    assert "| `pixels` | 4 | 0 of 4 |" in page


def test_intervals_hold_what_the_oracle_is_uncertain_by(tmp_path: Path) -> None:
    """Two oracles, of which a draw may take the better twice: then 91 of 100 are only 82.7, and nobody is there."""
    for seed, end in enumerate((90.0, 110.0)):
        write_run(tmp_path, "state", seed, [end] * EVALUATIONS)
    for seed in range(5):
        write_run(tmp_path, "gqn", seed, [25.0, *[200.0] * (EVALUATIONS - 1)])
        write_run(tmp_path, "pixels", seed, [*[25.0] * 4, *[91.0] * (EVALUATIONS - 4)])
    task = only_task(tmp_path)
    steps = task.arms["pixels"].steps
    assert steps is not None
    assert (steps.low, steps.high, steps.lower) == (500, 500, 500)
    assert steps.upper == math.inf
    ratio = task.comparisons["pixels"].ratio
    assert (ratio.low, ratio.high, ratio.lower, ratio.upper) == (2.5, 2.5, 2, math.inf)
    assert task.arms["gqn"].steps == (200, 200, 200, 200)  # wherever 100 lies


def test_an_arm_of_as_many_seeds_is_not_resampled_in_step_with_the_oracle(tmp_path: Path) -> None:
    ends = [90.0, 95.0, 100.0, 105.0, 110.0]
    for seed, end in enumerate(ends):
        write_run(tmp_path, "state", seed, [end] * EVALUATIONS)
    tops = only_task(tmp_path).scale.tops[1:]
    arm = resample(np.array(ends), np.random.default_rng(SEED)).mean(axis=1)
    assert tops.std() == pytest.approx(arm.std(), rel=0.05)
    assert abs(np.corrcoef(tops, arm)[0, 1]) < 0.05


def test_arms_are_compared_at_other_heights(tmp_path: Path) -> None:
    write_task(tmp_path)
    for seed in range(5):  # at 60 from 300 on, at 85 from 500 on; more than nine in ten won from the start
        points = [25.0, 25, 60, 60, 85, 85, 85, 85, 100, 100]
        write_run(tmp_path, "pixels", seed, points, success=0.95)
    task = only_task(tmp_path)
    found = task.comparisons["pixels"].elsewhere
    assert {at: ratio.low for at, ratio in found.items()} == {
        (NORMALISED, 50.0): 300 / 200,
        (NORMALISED, 80.0): 500 / 200,
        (SUCCESS, 90.0): 100 / 200,
    }
    assert "| `pixels` | 1.50 [1.00, 3.00] | 2.50 [2.00, 5.00] | 0.50 [0.00, 1.00] |" in to_markdown(
        report_on(tmp_path)
    )


def test_runs_of_an_arm_that_differ_are_noticed(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=2)
    for seed, commit in enumerate(("abc", "abc+")):
        config = {"seed": seed, "algorithm": {"kwargs": {"gamma": 0.9 + 0.5 * seed}}, "total_steps": 1_000}
        later = {"certainty": False} if seed else {}  # a key that came later says nothing of a run before
        facts = {"random_score": RANDOM, "budget": 1_000, "versions": {"git_commit": commit}, "encoder_hash": f"{seed}"}
        write_run(tmp_path, "mine", seed, there_at(3), facts={**facts, "config": {**config, **later}})
    notes = [note for note in report_on(tmp_path).notes if "differ" in note or "commit" in note]
    assert notes == [
        "`reach`: runs of `mine` differ in `algorithm.kwargs.gamma` (`0.9`, `1.4`).",
        "`reach`: runs of `mine` differ in `encoder_hash` (`0`, `1`).",
        "`reach`: 1 of 10 runs were made by files that their commit does not hold (`+`).",
    ]


def test_runs_that_went_on_with_other_code_are_noticed(tmp_path: Path) -> None:
    write_task(tmp_path, seeds=2)
    begun = {"git_commit": "abc", "torch": "2.13.0"}
    resumed = [{"step": 2_000, "git_commit": "abc", "torch": "2.14.0"}, {"step": 4_000, **begun, "git_commit": "def+"}]
    facts = {"random_score": RANDOM, "budget": 1_000, "versions": begun, "resumed": resumed}
    write_run(tmp_path, "mine", 7, there_at(3), facts=facts)
    notes = [note for note in report_on(tmp_path).notes if "went on" in note or "commit" in note]
    assert notes == [
        "`reach`: `mine` seed 7 went on from 2,000 steps with torch `2.14.0`, from 4,000 steps with git_commit `def+`.",
        "`reach`: 1 of 9 runs were made by files that their commit does not hold (`+`).",
    ]


def test_half_written_line_does_not_count(tmp_path: Path) -> None:
    path = write_run(tmp_path, "gqn", 0, there_at(2))
    path.write_text(path.read_text() + "reach,gqn,0,1100,24.0,1.0,3")
    runs, notes = read_results(tmp_path)
    assert len(runs[0].steps) == EVALUATIONS
    assert notes == ["`reach/gqn-seed0.csv` ends in the middle of a line, which is left out."]


def test_run_without_evaluations_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path, "gqn", 0, there_at(2))
    write_run(tmp_path, "gqn", 1, [])
    runs, notes = read_results(tmp_path)
    assert len(runs) == 1
    assert notes == ["`reach/gqn-seed1.csv` has no evaluation yet."]
    for begun in ("", "task,arm,se"):
        (tmp_path / "reach" / "gqn-seed1.csv").write_text(begun)
        runs, notes = read_results(tmp_path)
        assert len(runs) == 1
        assert notes[-1] == "`reach/gqn-seed1.csv` has no evaluation yet."


# What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("reach,gqn,0,1100,24.0,1.0", "6 values for 7 columns"),
        ("reach,gqn,0,99999999999999999999,24.0,1.0,33.0", "step is '99999999999999999999'"),
        ("reach,gqn,0,many,24.0,1.0,33.0", "step is 'many', must be a whole number from 0"),
        ("reach,gqn,-1,1100,24.0,1.0,33.0", "seed is '-1'"),
        ("reach,gqn,0,1100,nan,1.0,33.0", "score is 'nan', must be a finite number"),
        ("reach,gqn,0,1100,24.0,1.5,33.0", "success is '1.5', must be from 0 to 1, or nan"),
        ("reach,gqn,0,1100,24.0,1.0,inf", "wall_s is 'inf'"),
        ("reach,,0,1100,24.0,1.0,33.0", "arm is '', must be a name"),
        ("reach,gqn,0,1000,24.0,1.0,33.0", "step 1000 after step 1000; steps must rise"),
        ("reach,pixels,0,1100,24.0,1.0,33.0", "another task, arm or seed"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = write_run(tmp_path, "gqn", 0, there_at(2))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}, line {EVALUATIONS + 2}: .*{re.escape(said)}"):
        read_results(tmp_path)


def test_columns_are_checked_and_named(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("task,arm,step\nreach,gqn,1\n")
    with pytest.raises(UserError, match=r"line 1: no column 'seed', 'score'.*columns are task, arm, seed, step, score"):
        read_results(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text file"):
        read_results(tmp_path)


def test_further_columns_are_left_alone(tmp_path: Path) -> None:
    path = write_run(tmp_path, "gqn", 0, there_at(2))
    before = to_markdown(report_on(tmp_path))
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"distance,{header}", *(f"0.1,{line}" for line in lines)]) + "\n")
    assert to_markdown(report_on(tmp_path)) == before


def test_run_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, "gqn", 0, there_at(2))
    shutil.copy(path, path.with_name("copy.csv"))
    with pytest.raises(UserError, match=r"seed0\.csv: task 'reach', arm 'gqn', seed 0 is in .*copy\.csv already"):
        read_results(tmp_path)


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read_results(tmp_path / "none")
    with pytest.raises(UserError, match="holds no CSV"):
        read_results(tmp_path)
    write_run(tmp_path, "gqn", 0, [])
    with pytest.raises(UserError, match=r"no run below .* has an evaluation"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is corrupt"),
        ("[]", "must be an object"),
        ('{"budget": "many"}', "'budget' is 'many', must be a finite number"),
        ('{"updates": -1}', "'updates' is -1, must be a number from 0"),
        ('{"views": true}', "'views' is True"),
        ('{"versions": "1.0"}', "'versions' is '1.0', must be an object"),
        ('{"config": 1}', "'config' is 1, must be an object"),
        ('{"resumed": [{}]}', "'resumed' is [{}], must be a list of objects, each with a step from 0"),
        (
            '{"resumed": [{"step": "abc"}]}',
            "'resumed' is [{'step': 'abc'}], must be a list of objects, each with a step",
        ),
        ('{"encoder_hash": 1}', "'encoder_hash' is 1, must be text"),
    ],
)
def test_malformed_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = write_run(tmp_path, "gqn", 0, there_at(2)).with_suffix(".json")
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}.*{re.escape(said)}"):
        read_results(tmp_path)


def test_json_may_have_keys_that_a_report_does_not_use(tmp_path: Path) -> None:
    write_run(tmp_path, "gqn", 0, there_at(2), facts={"budget": None, "config": {"a": 1}, "updates": 5})
    (run,), _ = read_results(tmp_path)
    assert (run.facts.budget, run.facts.updates, run.finished) == (None, 5, None)


# Invariances --------------------------------------------------------------------------------------------------


def random_task(folder: Path, arms: Sequence[str] = ("state", "gqn", "pixels_aug", "pixels")) -> None:
    """Noisy curves, of arms that are slower and slower."""
    for place, arm in enumerate(arms):
        for seed in range(5):
            rng = np.random.default_rng([place, seed])
            curve = 100 * (1 - np.exp(-np.arange(1, 31) / (2 + 3 * place))) + rng.normal(0, 2, 30)
            write_run(folder, arm, seed, curve.tolist())


def test_scale_of_scores_does_not_matter(tmp_path: Path) -> None:
    random_task(tmp_path)
    runs, _ = read_results(tmp_path)
    before = analyse(runs).tasks[0]
    facts = replace(runs[0].facts, random_score=4 * RANDOM + 16)
    after = analyse([replace(run, scores=4 * run.scores + 16, facts=facts) for run in runs]).tasks[0]
    for name, arm in before.arms.items():
        assert after.arms[name].steps == arm.steps
        assert after.comparisons.get(name) == before.comparisons.get(name)
        assert arm.area is not None
        assert after.arms[name].area == pytest.approx(arm.area)


def test_order_of_runs_does_not_matter(tmp_path: Path) -> None:
    random_task(tmp_path)
    runs, _ = read_results(tmp_path)
    assert to_markdown(analyse(runs[::-1])) == to_markdown(analyse(runs))


def test_names_of_seeds_do_not_matter(tmp_path: Path) -> None:
    random_task(tmp_path)
    runs, _ = read_results(tmp_path)
    before = numbers(analyse(runs).tasks[0])
    renamed = [replace(run, seed=100 - run.seed) for run in runs]
    assert numbers(analyse(renamed).tasks[0]) == before


def test_another_arm_changes_no_figure_of_the_others(tmp_path: Path) -> None:
    random_task(tmp_path, ("state", "gqn", "pixels_aug"))
    before = numbers(only_task(tmp_path))
    random_task(tmp_path, ("state", "gqn", "pixels_aug", "mine"))
    after = numbers(only_task(tmp_path))
    assert after.pop("mine")
    assert after == before
    for seed in range(5):  # nor does one of a shorter budget
        write_run(tmp_path, "mine", seed, [50.0] * 4)
    task = only_task(tmp_path)
    assert (task.arms["mine"].area, task.arms["mine"].profile) == (None, None)
    after = numbers(task)
    assert after.pop("mine")
    assert after == before


# Through the command line -------------------------------------------------------------------------------------


def test_command_line_makes_the_whole_report_twice_the_same(
    tmp_path: Path, cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    write_task(results)
    write_task(results, task="gqn_rl/Reach-v0", seeds=2)
    random_task(results / "more")  # the same task's arms: refused below
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["report", str(results), "--out", str(first)]) == 2
    assert "is in" in capsys.readouterr().err
    shutil.rmtree(results / "more")

    assert main(["report", str(results), "--out", str(first)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(written) == sorted(first.iterdir())
    moved = results.rename(tmp_path / "moved")  # the report knows its runs, not where they lay
    done = cli("report", moved, "--out", second)
    assert (done.returncode, done.stderr) == (0, "")
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.width >= 900
                assert np.asarray(picture.convert("L")).std() > 5
        else:
            assert (second / path.name).read_bytes() == path.read_bytes()
    page = (first / PAGE).read_text()
    assert re.findall(r"\]\(([^)]+)\)", page) == ["steps_to_90.png", "learning_curves.png", "performance_profile.png"]
    assert str(tmp_path) not in page


def test_some_tasks_alone_are_as_if_there_were_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    write_task(both)
    write_task(both, task="other")
    write_task(one, task="other")
    broken = write_run(both, "mine", 0, there_at(2))  # of a task that is not asked for
    broken.write_text(broken.read_text() + "reach,mi")
    assert main(["report", str(both), "--tasks", "other", "--out", str(tmp_path / "chosen")]) == 0
    assert main(["report", str(one), "--out", str(tmp_path / "alone")]) == 0
    assert (tmp_path / "chosen" / PAGE).read_text() == (tmp_path / "alone" / PAGE).read_text()
    capsys.readouterr()
    assert main(["report", str(both), "--tasks", "other,another", "--out", str(tmp_path / "none")]) == 2
    assert "'another'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_report_into_its_own_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path, seeds=1)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 2
    assert "whose CSV files are read" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_run_s_folder_is_no_benchmark_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "cameras.csv"):
        (run / name).touch()
    assert main(["report", str(run), "--out", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert f"{run} is the folder of a single run" in error
    assert "by default benchmarks/results" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_csv_tables_hold_what_the_page_says(tmp_path: Path) -> None:
    write_task(tmp_path / "results")
    write_tables(tmp_path / "out", report_on(tmp_path / "results"))
    tables = {(row["arm"], row["measure"], row["at"]): row for row in table(tmp_path / "out" / TABLES)}
    assert tables["pixels", "ratio_to_gqn", ""]["lower"] == "5"
    assert tables["pixels", "ratio_to_gqn", ""]["value_at_most"] == "inf"
    assert tables["gqn", "tasks_to_break_even_in_frames", ""]["value"] == "2"
    assert tables["state", "normalised_score", "1000"]["value"] == "100"
    runs = table(tmp_path / "out" / RUNS)
    assert len(runs) == 20
    assert [row["steps_to_90"] for row in runs if row["arm"] == "pixels_aug"] == ["600", "800", "800", "800", "800"]
    assert {row["reached"] for row in runs if row["arm"] == "pixels"} == {"False"}


def test_tasks_are_pooled_where_all_are_normalised(tmp_path: Path) -> None:
    write_task(tmp_path, "one")
    write_task(tmp_path, "two")
    report = report_on(tmp_path)
    assert list(report.pooled) == ["state", "gqn", "pixels_aug", "pixels"]
    assert report.pooled["state"] == (100, 100, 100, 100)
    shutil.rmtree(tmp_path / "two")
    assert report_on(tmp_path).pooled == {}


def test_a_claim_is_as_provisional_as_the_arm_of_fewer_seeds(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, "state", seed, there_at(1))
        write_run(tmp_path, "gqn", seed, there_at(2))
    for seed in range(2):
        write_run(tmp_path, "pixels", seed, there_at(8))
    assert only_task(tmp_path).comparisons["pixels"].claim.endswith("times fewer steps (provisional: 2 seeds)")


@pytest.mark.parametrize(("before", "noticed"), [(97.0, True), (103.0, True), (98.5, False)])
def test_an_oracle_has_converged_within_two_points(tmp_path: Path, before: float, noticed: bool) -> None:
    write_run(tmp_path, "state", 0, [*[before] * (EVALUATIONS - 3), *[100.0] * 3])
    notes = [note for note in report_on(tmp_path).notes if "converged" in note]
    assert [f"{100 - before:+.1f} points" in note for note in notes] == [True] * noticed


def test_costs_are_in_the_units_of_their_columns(tmp_path: Path) -> None:
    """Ten evaluations, three seconds and a hundred steps apart; there after two."""
    write_task(tmp_path)
    page = to_markdown(report_on(tmp_path))
    assert "| steps | minutes | s / 1,000 steps | minutes to 90 | updates | replay, MiB | KiB a step | x gqn |" in page
    assert "| `gqn` | 1,000 | 0.5 | 30.0 | 0.1 | 1,000 | 1.0 | 1.02 | 1 |" in page


def test_facts_of_an_arm_are_medians_of_its_runs(tmp_path: Path) -> None:
    for seed, updates in enumerate((10, 20, 90)):
        write_run(tmp_path, "gqn", seed, there_at(2), facts={"random_score": RANDOM, "updates": updates})
    assert only_task(tmp_path).arms["gqn"].fact("updates") == 20


def test_a_line_for_each_run_says_where_it_ended(tmp_path: Path) -> None:
    write_task(tmp_path / "results", seeds=1)
    write_tables(tmp_path / "out", report_on(tmp_path / "results"))
    (row,) = [row for row in table(tmp_path / "out" / RUNS) if row["arm"] == "gqn"]
    names = ("last_step", "last_score", "last_points", "last_success", "wall_s", "steps_to_90")
    assert [float(row[name]) for name in names] == [1_000, ORACLE, 100, 1, 30, 200]


def test_what_pretraining_saves_is_a_bound_where_the_rival_is_censored_and_never_where_it_is_faster(
    tmp_path: Path,
) -> None:
    facts = {"random_score": RANDOM, "budget": 1_000, "pretraining_frames": 2_400, "views": 2}
    for task, rival in (("slow", [25.0] * EVALUATIONS), ("fast", there_at(1))):
        write_run(tmp_path / task, "state", 0, there_at(1))
        write_run(tmp_path / task, "gqn", 0, there_at(2), facts=facts)
        write_run(tmp_path / task, "pixels_aug", 0, rival)
    slow, fast = (only_task(tmp_path / task).break_even for task in ("slow", "fast"))
    assert slow is not None
    assert fast is not None
    assert slow.saved == (800, np.inf)
    assert (slow.tasks(1), slow.tasks(2)) == ((0, 3), (0, 1.5))
    assert (fast.saved, fast.tasks(1)) == ((-100, -100), (np.inf, np.inf))
    assert "| >= 800 | <= 3.00 | 2 | <= 1.50 |" in to_markdown(report_on(tmp_path / "slow"))
    assert "| -100 | never | 2 | never |" in to_markdown(report_on(tmp_path / "fast"))


def test_zero_is_the_mean_of_what_random_actions_scored(tmp_path: Path) -> None:
    for seed, score in enumerate((-8.0, -9.0, -13.0)):
        write_run(tmp_path, "state", seed, there_at(2), facts={"random_score": score})
    assert only_task(tmp_path).scale.random == -10


@pytest.mark.parametrize(("short", "last"), [(2, 1_000), (3, 500)])
def test_a_curve_goes_as_far_as_half_of_its_runs(tmp_path: Path, short: int, last: int) -> None:
    for seed in range(4):
        points = there_at(2)[: 5 if seed < short else None]
        write_run(tmp_path, "gqn", seed, points, facts={"random_score": RANDOM})
    assert only_task(tmp_path).arms["gqn"].curve.steps[-1] == last
