"""Runs the benchmark's grid: its jobs in processes of their own, through joblib, on this machine or on a Ray cluster.

Jobs and the process that started them talk through files alone, so on a cluster all folders have to be shared. A run's
progress is what it has written; to stop, all of them watch for one file.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import joblib
from tqdm import tqdm

from gqn_rl.agents.benchmark import ArmFacts, Job, reworded
from gqn_rl.agents.benchmark_results import publish, steps_done
from gqn_rl.agents.checkpoints import newest, step_of
from gqn_rl.agents.interrupts import StopRequest, TrainingInterrupted, stopping_when
from gqn_rl.agents.reporting import say, scores
from gqn_rl.agents.training import train
from gqn_rl.config import UserError
from gqn_rl.encoder import load_encoder
from gqn_rl.files import disk_errors

Backend = Literal["processes", "ray"]
Status = Literal["finished", "stopped", "failed"]

#: Seconds between looks: of the parent at its runs, and of a run at whether it should stop.
LOOK_EVERY: Final = 0.5


class Outcome(NamedTuple):
    """How a job ended."""

    name: str
    status: Status
    reason: str = ""  #: why it failed


def run_jobs(
    jobs: Sequence[Job],
    facts: Mapping[tuple[str, str], ArmFacts],
    *,
    workers: int | None = None,
    backend: Backend = "processes",
) -> list[Outcome]:
    """Do those of ``jobs`` that are not done, ``workers`` at a time; returns how each of these ended.

    Results are published (:func:`gqn_rl.agents.benchmark_results.publish`) as they come in, those of runs that were
    there before at once; those of finished runs stay. SIGINT and SIGTERM stop all runs at the next step; they go on
    from their last checkpoints.

    Args:
        jobs: in the order in which they are begun.
        facts: of each (task, arm), from :func:`gqn_rl.agents.benchmark.check`.
        workers: how many runs at a time; None: as many as there are processors, those of the cluster with Ray.
        backend: ``processes`` of this machine (joblib's loky), or those of a ``ray`` cluster: the one that the variable
            RAY_ADDRESS names, else one that is started here.

    Raises:
        UserError: Ray is not installed, or a process died.
    """
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(StopRequest())
        monitor = stack.enter_context(_Monitor(jobs, facts, request))
        todo = [job for job in jobs if not job.done]
        for job in jobs:
            if job.run.finished:  # and killed before it could do this itself
                shutil.rmtree(job.run.checkpoints, ignore_errors=True)
        if not todo:
            return []
        threads = max(job.config.threads or 1 for job in todo)
        at_once = stack.enter_context(_BACKENDS[backend](workers, len(todo), threads))
        tasks = (joblib.delayed(do)(job, Path.cwd(), monitor.stop_file) for job in todo)
        try:
            # Of one worker joblib would make none and do the jobs here; how many there are is what pre_dispatch says.
            outcomes = joblib.Parallel(n_jobs=max(2, at_once), pre_dispatch=at_once, batch_size=1)(tasks)
        except BrokenExecutor as error:
            if request.received:
                return [Outcome(job.name, "finished" if job.run.finished else "stopped") for job in todo]
            raise UserError(
                f"a process of the benchmark died, perhaps for want of memory: {str(error).splitlines()[0]} "
                "Finished runs and checkpoints are kept: run the same command to go on, with fewer --jobs"
            ) from None
        return list(outcomes)


def do(job: Job, cwd: Path, stop_file: Path) -> Outcome:
    """Do one run, or go on with it, in the process that this is called in, until it is done or ``stop_file`` appears.

    What it prints goes to ``job.log``.
    """
    os.chdir(cwd)
    asked = _Asked(stop_file)
    if asked():
        return Outcome(job.name, "stopped")
    with _log(job.log), stopping_when(asked):
        try:
            config = job.config
            train(job.folder, config, load_encoder(config.encoder) if config.encoder is not None else None)
        except TrainingInterrupted as stop:
            print(stop)
            if not asked():  # a signal got here before the parent's word: the next job is not to begin
                stop_file.touch()
            return Outcome(job.name, "stopped")
        except UserError as error:
            print(f"error: {error}")
            return Outcome(job.name, "failed", reworded(error))
        except Exception as error:  # whatever it is, other runs are not to suffer from it
            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return Outcome(job.name, "failed", f"{reason} (see {job.log})")
        finally:
            gc.collect()  # a replay buffer in a cycle of references would still be there beside the next one
    return Outcome(job.name, "finished")


class _Asked:
    """Whether a run should stop; looks at most every ``LOOK_EVERY`` seconds, and does not forget."""

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file
        self._parent = os.getppid()
        self._next = 0.0
        self._answer = False

    def __call__(self) -> bool:
        if not self._answer and time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_EVERY
            self._answer = self._stop_file.exists() or os.getppid() != self._parent  # the latter: it was killed
        return self._answer


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to every process of a command, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    """Send what is printed to the end of ``path``."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "a", buffering=1, encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield


@contextlib.contextmanager
def _local_processes(workers: int | None, jobs: int, threads: int) -> Iterator[int]:
    at_once = min(workers or max(1, joblib.cpu_count() // threads), jobs)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=threads, initializer=_ignore_interrupts):
        yield at_once


@contextlib.contextmanager
def _ray_cluster(workers: int | None, jobs: int, threads: int) -> Iterator[int]:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise UserError("--backend ray needs Ray: pip install 'gqn-rl[ray]'") from None
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        processors = int(ray.cluster_resources()["CPU"])
    else:
        processors = joblib.cpu_count()
        slots = max(2, workers or processors)
        ray.init("local", num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        register_ray()
        at_once = min(workers or max(1, processors // threads), jobs)
        with joblib.parallel_config(backend="ray"):
            yield at_once
    finally:
        ray.shutdown()


_BACKENDS: Final[Mapping[str, Callable[[int | None, int, int], Any]]] = {
    "processes": _local_processes,
    "ray": _ray_cluster,
}


class _Monitor:
    """Publishes results, moves the bar and passes on a request to stop, in a thread: joblib has the main one."""

    def __init__(self, jobs: Sequence[Job], facts: Mapping[tuple[str, str], ArmFacts], request: StopRequest) -> None:
        self._jobs, self._facts, self._request = jobs, facts, request
        #: All runs stop when it appears.
        self.stop_file = jobs[0].folder.parent.parent / f".stop-{uuid.uuid4().hex}"
        self._seen: dict[str, object] = {}  # name: what its files were like when they were published
        published = [job for job in jobs if job.published]
        self._steps = {job.name: job.config.total_steps for job in published}
        self._finished = {job.name for job in published}
        self._error: Exception | None = None
        self._damaged: dict[str, UserError] = {}  # name: why its results cannot be published
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look(quiet=True)
        self._complain()
        done = sum(self._steps.values())
        total = sum(job.config.total_steps for job in self._jobs)
        # Over the whole time: an arm on pixels is far slower than the others, and the last minute says little.
        self._bar = tqdm(total=total, initial=done, unit="step", smoothing=0, disable=None, dynamic_ncols=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            self._look()
            self._complain()
        finally:
            self._bar.close()
            self.stop_file.unlink(missing_ok=True)

    def _watch(self) -> None:
        try:
            while not self._end.wait(LOOK_EVERY):
                if self._request.received:
                    self._stop()
                self._look()
                self._bar.refresh()  # the clock goes on also while no run has written anything
        except Exception as error:  # a full disk, say; it belongs to whoever waits for the runs
            self._error = error
            self._stop()

    def _stop(self) -> None:
        if not self.stop_file.exists():
            say("stopping all runs ...")
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()

    def _complain(self) -> None:
        """Raise :class:`UserError` for the results that could not be published."""
        if self._damaged:
            raise UserError("; ".join(f"{name}: {error}" for name, error in self._damaged.items()))

    def _look(self, quiet: bool = False) -> None:
        for job in self._jobs:
            if job.name in self._finished or (state := _state(job)) == self._seen.get(job.name):
                continue
            finished = job.run.finished
            self._seen[job.name] = state
            try:
                self._steps[job.name] = steps_done(job)
                publish(job, self._facts[str(job.config.task), str(job.config.arm)])
            except UserError as error:  # a file is damaged; the other runs are not to suffer from it
                self._damaged[job.name] = error
                continue
            self._damaged.pop(job.name, None)
            if finished:
                self._finished.add(job.name)
            if not quiet:
                self._bar.update(sum(self._steps.values()) - self._bar.n)
                self._bar.set_postfix_str(f"{len(self._finished)} of {len(self._jobs)} runs done")
                if finished:
                    row = job.run.rows()[-1]
                    ratio = f"{len(self._finished)} of {len(self._jobs)}"
                    say(f"{ratio}: {job.name}, {scores(row.success, row.score)}, {row.wall_s:,.0f} s")


def _state(job: Job) -> object:
    """Changes whenever there is something new to publish, or to count."""
    run = job.run
    try:
        found = run.evaluations.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, run.finished, step_of(newest(run.checkpoints))
