"""What a reader must know before believing a figure: few seeds, runs that differ, an oracle still climbing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from gqn_rl.config import flatten
from gqn_rl.findings import CONVERGED, ENOUGH, SCORE, SUCCESS, THRESHOLD, Task
from gqn_rl.results import ARMS, Run, code_span

#: Points by which the oracle's last evaluations may differ from as many before for it to count as converged.
DRIFT: Final = 2.0


def caveats(tasks: Sequence[Task]) -> list[str]:
    """A sentence on each."""
    notes = []
    for task in tasks:
        name = code_span(task.name)
        if task.scale.why:
            instead = {
                SUCCESS: f"scores are success in percent, and the threshold is {THRESHOLD:.0f} % success",
                SCORE: "scores are raw returns, and there is no threshold",
            }[task.scale.unit]
            notes.append(f"{name}: not normalised, for {task.scale.why}; {instead}.")
        if abs(task.scale.drift) > DRIFT:
            notes.append(
                f"{name}: the oracle may not have converged: its last {CONVERGED} evaluations are "
                f"{task.scale.drift:+.1f} points from the {CONVERGED} before."
            )
        randoms = [run.facts.random_score for arm in task.arms.values() for run in arm.runs]
        known = [score for score in randoms if score is not None]
        if known and not math.isclose(min(known), max(known), rel_tol=1e-6):
            notes.append(
                f"{name}: random actions score from {min(known):.4g} to {max(known):.4g}, so the runs were not "
                "evaluated in the same episodes; 0 of the scale is their mean."
            )
        few = [f"{code_span(arm.name)} {len(arm.runs)}" for arm in task.arms.values() if len(arm.runs) < ENOUGH]
        if few:
            notes.append(f"{name}: fewer than {ENOUGH} seeds: {', '.join(few)}. What is said of them is provisional.")
        for arm in task.arms.values():
            notes += [f"{name}: {_unfinished(run)}." for run in arm.unfinished]
        notes += [f"{name}: {_unfinished(run)}, and left out." for run in task.left_out]
        unknown = [code_span(arm.name) for arm in task.arms.values() if any(run.finished is None for run in arm.runs)]
        if unknown:
            notes.append(f"{name}: whether all runs are finished is not known of {', '.join(unknown)}.")
        for arm in task.arms.values():
            notes += [f"{name}: runs of {code_span(arm.name)} differ in {what}." for what in _differences(arm.runs)]
        runs = [run for arm in task.arms.values() for run in arm.runs]
        notes += [f"{name}: {_went_on(run)}." for run in runs if run.facts.resumed]
        dirty = sum(any(str(commit).endswith("+") for commit in _commits(run)) for run in runs)
        if dirty:
            notes.append(
                f"{name}: {dirty} of {len(runs)} runs were made by files that their commit does not hold (`+`)."
            )
        absent = [code_span(arm) for arm in ARMS if arm not in task.arms]
        if absent:
            notes.append(f"{name}: no runs of {', '.join(absent)}.")
    return notes


def _differences(runs: Sequence[Run]) -> list[str]:
    """What the configurations and encoders of one arm's runs do not have in common, but for seeds.

    A setting counts where runs give it different values; one that only later versions write down does not.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key, value in flatten(run.facts.config).items():
            if key != "seed":
                found[key].add(repr(value))
        if run.facts.encoder_hash is not None:
            found["encoder_hash"].add(run.facts.encoder_hash)
    return [
        f"{code_span(key)} ({', '.join(map(code_span, sorted(values)))})"
        for key, values in sorted(found.items())
        if len(values) > 1
    ]


def _commits(run: Run) -> list[Any]:
    return [made_with.get("git_commit") for made_with in (run.facts.versions, *run.facts.resumed)]


def _went_on(run: Run) -> str:
    """With what other versions than it was begun with."""
    begun, parts = run.facts.versions, []
    for later in run.facts.resumed:
        others = [f"{key} {code_span(str(later[key]))}" for key in begun if later.get(key, begun[key]) != begun[key]]
        parts.append(f"from {later['step']:,} steps with {', '.join(others)}")
    return f"{code_span(run.arm)} seed {run.seed} went on {', '.join(parts)}"


def _unfinished(run: Run) -> str:
    at, budget = int(run.steps[-1]), run.facts.budget
    return f"{code_span(run.arm)} seed {run.seed} is unfinished, at {at:,} of {budget:,.0f} steps"
