"""What the benchmark keeps of a run, finished or not: its evaluations as CSV, and what else is known of it as JSON."""

from __future__ import annotations

import json
import zipfile
from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from gqn_rl.agents.benchmark import ArmFacts, Job
from gqn_rl.agents.build import resolve_algorithm
from gqn_rl.agents.checkpoints import MODEL, newest, step_of
from gqn_rl.config import UserError, read_yaml
from gqn_rl.files import read_json, write_json, write_text


def publish(job: Job, facts: ArmFacts) -> bool:
    """Write the CSV and JSON files of ``job`` anew; returns whether there was anything to write.

    The CSV is the run's ``evaluations.csv``: a line (:class:`gqn_rl.agents.runs.Row`) an evaluation. Each file is
    whole, or the one before.
    """
    run = job.run
    finished = run.finished  # asked first: should the run end now, the files are written once more
    rows = run.rows()
    if not rows:
        return False
    random_policy = read_json(run.random_policy)
    content = run.evaluations.read_text()
    # As it was begun: keys that came later change no finished file. JSON has no infinities: they are text.
    config = json.loads(json.dumps(read_yaml(run.config), default=str), parse_constant=str)
    versions = read_json(run.versions)
    resumed = versions.pop("resumed", [])
    # First: where the JSON says that the run is finished, the CSV is whole.
    write_text(job.csv, content[: content.rfind("\n") + 1])
    write_json(
        job.json,
        {
            "task": job.config.task,
            "arm": job.config.arm,
            "seed": job.config.seed,
            "finished": finished,
            "budget": job.config.total_steps,
            "random_score": random_policy["score"],
            "random_success": random_policy["success"],
            "updates": updates(job),
            "replay_bytes": facts.replay_bytes,
            "views": facts.views,
            "threads": job.config.threads,
            "encoder": job.config.encoder,
            "encoder_hash": facts.encoder_hash,
            "pretraining_frames": facts.pretraining_frames,
            "pretraining_cpu_s": facts.pretraining_cpu_s,
            "config": config,
            "versions": versions,
            "resumed": resumed,  # from which step on with which other versions
        },
    )
    return True


def steps_done(job: Job) -> int:
    """Environment steps that the run has taken for sure."""
    if job.run.finished:
        return job.config.total_steps
    rows = job.run.rows()
    return min(max(rows[-1].step if rows else 0, step_of(newest(job.run.checkpoints))), job.config.total_steps)


def updates(job: Job) -> int | None:
    """Gradient updates until the newest policy that can be resumed, or the final one; None if there is none yet.

    And of algorithms that count something else: PPO passes over its rollouts, not their minibatches.
    """
    run = job.run
    if not issubclass(resolve_algorithm(job.config.algorithm.id), OffPolicyAlgorithm):
        return None
    if run.finished:
        path = run.final_model
    elif (checkpoint := newest(run.checkpoints)) is not None:
        path = checkpoint / MODEL
    else:
        return None
    try:
        with zipfile.ZipFile(path) as file:
            data: dict[str, Any] = json.loads(file.read("data"))
    except FileNotFoundError:  # it was replaced just now
        return None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return data.get("_n_updates")
