"""What runs turn out to say: the parts of a report, before words and pictures are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gqn_rl.results import Run
from gqn_rl.statistics import Band, Bounds, Estimate

#: The arm that defines 100, the one that the claims are about, and the one that pretraining has to pay off against.
ORACLE, OURS, RIVAL = "state", "gqn", "pixels_aug"
#: Units of a scale: points from random 0 to the oracle's 100, percent of episodes, or raw returns.
NORMALISED, SUCCESS, SCORE = "normalised score", "success", "score"
#: Points of the scale, on which random actions have 0 and the converged oracle 100.
THRESHOLD: Final = 90.0
#: Evaluations at the end of a run of the oracle that say where it converged.
CONVERGED: Final = 3
#: Seeds of an arm below which a claim is called provisional.
ENOUGH: Final = 5
#: Where performance profiles are evaluated, in points.
PROFILE_POINTS: Final = np.linspace(0, 120, 481)
CURVES_PICTURE, STEPS_PICTURE, PROFILE_PICTURE = "learning_curves.png", "steps_to_90.png", "performance_profile.png"


@dataclass(frozen=True)
class Scale:
    """What a task's scores are measured on."""

    unit: str  #: NORMALISED, SUCCESS or SCORE
    random: float | None  #: score of random actions, 0 of the normalised scale
    oracle: float | None  #: score of the converged oracle, 100 of the normalised scale
    drift: float  #: points by which the oracle's last three evaluations exceed the three before; nan if not known
    why: str  #: why it is not the normalised score; empty where it is
    #: Where 100 lies, in points: first 100, then for each resample of the oracle's seeds (1 + RESAMPLES,).
    tops: NDArray[np.float64]

    @property
    def threshold(self) -> float | None:
        """Where a task counts as reached; None where nothing says so."""
        return None if self.unit == SCORE else THRESHOLD

    def points(self, run: Run) -> NDArray[np.float64]:
        """The evaluations (n,) of a run on this scale."""
        if self.unit == SUCCESS:
            return 100 * run.success
        if self.unit == SCORE or self.random is None or self.oracle is None:
            return run.scores
        return 100 * (run.scores - self.random) / (self.oracle - self.random)


@dataclass(frozen=True)
class Curve:
    """A group's interquartile mean and pointwise interval at each of its evaluations."""

    steps: NDArray[np.int64]
    band: Band


@dataclass(frozen=True)
class Arm:
    """What an arm did on a task. Lists and arrays over runs are in the order of ``runs``."""

    name: str
    runs: list[Run]
    points: list[NDArray[np.float64]]
    #: Environment steps to the threshold, and with each resample of the oracle (1 + RESAMPLES, n); None on a scale that
    #: has none.
    redrawn: Bounds | None
    steps: Estimate | None  #: of these
    wall: Estimate | None  #: wall-clock seconds to the threshold
    curve: Curve
    success: Curve | None
    at: dict[int, tuple[Estimate | None, Estimate | None, int]]  #: step: score, success and how many runs got there
    areas: NDArray[np.float64]  #: under the curve, each run's; nan where it was not evaluated over the task's span
    area: Estimate | None
    final: NDArray[np.float64]  #: points at the end of the span, of the runs that got there
    profile: Band | None

    @property
    def reached(self) -> Bounds | None:
        """Environment steps to the threshold (n,); None on a scale that has none."""
        return None if self.redrawn is None else self.redrawn.observed

    @property
    def unfinished(self) -> list[Run]:
        """Runs that are known not to be at the end of their budget."""
        return [run for run in self.runs if run.finished is False]

    def fact(self, name: str) -> float | None:
        """The median of what is known of the runs; None where nothing is."""
        known = [value for run in self.runs if (value := getattr(run.facts, name)) is not None]
        return float(np.median(known)) if known else None


@dataclass(frozen=True)
class Comparison:
    """How many times the steps of ours another arm needs to the threshold."""

    #: Of the evaluations that were the first there; its interval also has in it that a run is there somewhere between
    #: that one and the one before.
    ratio: Estimate
    claim: str
    #: The same ratio at other heights: (NORMALISED or SUCCESS, the height).
    elsewhere: dict[tuple[str, float], Estimate]


@dataclass(frozen=True)
class BreakEven:
    """After how many tasks the frames of pretraining are paid for."""

    frames: float | None  #: that the encoder was pretrained on
    cpu_s: float | None
    saved: tuple[float, float]  #: environment steps a task, by the means, from and to; (nan, nan) where not known
    views: float | None  #: images in an observation

    def tasks(self, views: float | None) -> tuple[float, float]:
        """From and to how many tasks, at ``views`` frames a step; inf: never, nan: not known."""
        least, most = self.saved
        if self.frames is None or views is None or math.isnan(least):
            return math.nan, math.nan
        return (
            self.frames / (views * most) if most > 0 else math.inf,
            self.frames / (views * least) if least > 0 else math.inf,
        )


@dataclass(frozen=True)
class Task:
    """All that a task's runs say."""

    name: str
    scale: Scale
    span: tuple[int, int]  #: steps from and to which ours and the oracle were evaluated
    arms: dict[str, Arm]
    comparisons: dict[str, Comparison]
    break_even: BreakEven | None  #: None without both arms
    left_out: list[Run]  #: unfinished, beside finished ones of their arms


@dataclass(frozen=True)
class Report:
    """All tasks, what they say together, and what a reader must know."""

    tasks: list[Task]
    pooled: dict[str, Estimate]  #: area under the curve over all normalised tasks, of the arms that are in each
    profiles: dict[str, Band]  #: the same runs' performance profiles
    notes: list[str]

    @property
    def pictures(self) -> list[str]:
        """The figures that there is something to draw for."""
        shown = [CURVES_PICTURE]
        if any(task.scale.threshold is not None for task in self.tasks):
            shown.append(STEPS_PICTURE)
        if any(arm.profile is not None for task in self.tasks for arm in task.arms.values()):
            shown.append(PROFILE_PICTURE)
        return shown
