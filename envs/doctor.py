"""Says whether and how fast this machine renders, and what to install or set where it does not.

A broken OpenGL does not only raise: it aborts the process, or hangs in the first frame. Every probe therefore runs in
a Python process of its own with a time limit, and this module imports neither mujoco nor PyOpenGL itself (with
``MUJOCO_GL=osmesa`` and no OSMesa, ``import mujoco`` raises).
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Final

import gymnasium as gym

#: Debian's and Ubuntu's packages for headless rendering without a GPU: EGL and Mesa's software rasteriser.
OPENGL_PACKAGES: Final = ("libegl1", "libegl-mesa0", "libgl1-mesa-dri", "libgl1")
#: Packages whose versions decide what is drawn and learnt.
PACKAGES: Final = ("gqn-rl", "mujoco", "PyOpenGL", "gymnasium", "numpy", "torch", "stable-baselines3")
#: Mesa's rasterisers that run on the processor, as OpenGL's renderer string names them.
SOFTWARE: Final = ("llvmpipe", "softpipe", "swrast", "software rasterizer", "osmesa")
#: Linux backends of mujoco that need no display, the recommended one first (Mesa 25.1 removed OSMesa).
HEADLESS: Final = ("egl", "osmesa")
#: Processes that render their first frame at the same time, as parallel environments do.
PROCESSES: Final = 4
#: Cameras around another environment, which has to be named: nothing to measure by itself.
RIG: Final = "gqn_rl/CameraRig-v0"
#: Seconds a probe may take to start Python and render one frame; one or two is usual.
START_TIMEOUT: Final = 60.0

_CHILD: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from gqn_rl.envs.doctor import answer; answer(*sys.argv[2:])"
)


class ProbeError(Exception):
    """A probe raised, crashed or hung; the message says which."""


@dataclass(frozen=True)
class OpenGL:
    """What OpenGL says of itself."""

    vendor: str
    renderer: str
    version: str

    @property
    def software(self) -> bool:
        """Whether the processor draws, not a GPU."""
        return any(name in f"{self.renderer} {self.version}".lower() for name in SOFTWARE)


@dataclass(frozen=True)
class Speed:
    """How fast one environment runs in one process, or why it does not."""

    env_id: str
    frames_per_second: float = 0.0  #: views rendered by ``render_view``
    steps_per_second: float = 0.0  #: environment steps with random actions and the default observation
    image_size: tuple[int, int] = (0, 0)  #: height and width of a view, pixels
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """All that :func:`diagnose` found out."""

    system: str
    versions: Mapping[str, str]
    backend: str  #: MUJOCO_GL, empty where it is not set
    opengl: OpenGL | None
    speeds: Sequence[Speed]
    concurrent: int  #: how many of :data:`PROCESSES` rendered a first frame at the same time
    problems: Sequence[str]
    advice: Sequence[str]

    @property
    def healthy(self) -> bool:
        """Whether everything that was tried worked."""
        return not self.problems

    def __str__(self) -> str:
        """The report as text, a line for each finding."""
        rows = [
            ("system", self.system),
            ("packages", ", ".join(f"{name} {version}" for name, version in self.versions.items())),
            ("MUJOCO_GL", self.backend or "not set"),
        ]
        if self.opengl is not None:
            where = "software, on the processor" if self.opengl.software else "hardware"
            rows += [
                ("OpenGL", f"{self.opengl.renderer} ({where})"),
                ("", f"{self.opengl.vendor}, {self.opengl.version}"),
                ("concurrency", f"{self.concurrent} of {PROCESSES} processes rendered their first frame side by side"),
            ]
        for speed in self.speeds:
            height, width = speed.image_size
            rows.append(
                (
                    "speed",
                    f"{speed.env_id}: {speed.frames_per_second:,.0f} frames/s of {height}x{width} pixels, "
                    f"{speed.steps_per_second:,.0f} steps/s",
                )
            )
        rows += [("PROBLEM", problem) for problem in self.problems]
        rows += [("do this", advice) for advice in self.advice]
        rows.append(("verdict", "rendering works" if self.healthy else "rendering does not fully work"))
        return "\n".join(f"{name:<12} {text}" for name, text in rows)


def main(seconds: float = 2.0) -> int:
    """Print a report; returns the exit code: 0 where all is well, 1 otherwise. See :func:`diagnose`."""
    report = diagnose(seconds)
    print(report)
    return 0 if report.healthy else 1


def diagnose(seconds: float = 2.0) -> Report:
    """Try out rendering; ``seconds`` are spent on measuring frames, and as many on steps, of each environment.

    Takes no longer than that plus a few times :data:`START_TIMEOUT`, whatever the graphics driver does.

    Raises:
        ValueError: ``seconds`` is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    opengl, problems, advice = None, [], []
    speeds: list[Speed] = []
    concurrent = 0
    try:
        opengl = OpenGL(**probe("gqn_rl.envs.doctor:first_frame"))
    except ProbeError as error:
        problems.append(f"no frame could be rendered: {error}")
        advice.append(_remedy())
    else:
        advice += _hardware_advice(opengl)
        concurrent = _concurrent_frames(problems, advice)
        own = {spec.id for spec in gym.registry.values() if spec.namespace == "gqn_rl"}
        for env_id in sorted(own - {RIG}):
            speed = _speed(env_id, seconds)
            if speed.problem:
                problems.append(f"{env_id}: {speed.problem}")
            else:
                speeds.append(speed)
    return Report(
        system=f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors",
        versions=_versions(),
        backend=os.environ.get("MUJOCO_GL", ""),
        opengl=opengl,
        speeds=speeds,
        concurrent=concurrent,
        problems=problems,
        advice=advice,
    )


def probe(
    function: str, *arguments: Any, timeout: float = START_TIMEOUT, environment: Mapping[str, str] | None = None
) -> Any:
    """Call ``function`` ("module:name") in a Python process of its own and return its result, by way of JSON.

    Args:
        function: what to call; arguments and result are what JSON can hold.
        timeout: seconds from start to answer.
        environment: environment variables of the process; those of this one by default.

    Raises:
        ProbeError: it raised, crashed or did not answer in time.
    """
    return _Probe(function, *arguments, environment=environment).result(timeout)


class _Probe:
    """A probe that runs while its maker goes on; close it, or ask for its result."""

    def __init__(self, function: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(sys.path), function, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=None if environment is None else dict(environment),
        )

    def result(self, timeout: float) -> Any:
        """What the probe answers within ``timeout`` seconds of its start; raises :class:`ProbeError`."""
        try:
            left = max(0.0, self._started + timeout - time.monotonic())
            output, errors = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"no answer within {timeout:g} seconds") from None
        finally:
            self.close()
        code = self._process.returncode
        if code < 0:
            raise ProbeError(f"the process was ended by {signal.Signals(-code).name}")
        if code > 0:
            raise ProbeError((errors.strip().splitlines() or [f"exit code {code}"])[-1])
        return json.loads(output.splitlines()[-1])

    def close(self) -> None:
        """End the process, without waiting for one that the driver does not let go."""
        self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)


def answer(function: str, arguments: str) -> None:
    """The probed process's side of :func:`probe`: call, and print the result as JSON on the last line."""
    module, _, name = function.partition(":")
    print("\n" + json.dumps(getattr(import_module(module), name)(*json.loads(arguments))), flush=True)


def first_frame() -> dict[str, str]:
    """Render one frame of a ball; the OpenGL vendor, renderer and version strings."""
    import mujoco

    from gqn_rl.cameras import look_at
    from gqn_rl.envs.gl_context import gl_description
    from gqn_rl.envs.renderer import SceneRenderer

    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    image = SceneRenderer(model, 64, 64).render(data, look_at((4.0, 0.0, 0.0), (0.0, 0.0, 0.0))[None])
    if image.min() == image.max():
        raise RuntimeError("OpenGL returned a frame of one colour")
    return gl_description()


def measure(env_id: str, seconds: float) -> dict[str, Any]:
    """Frames and steps a second of an environment, measured for ``seconds`` each, as fields of :class:`Speed`."""
    import numpy as np

    rng = np.random.default_rng(0)
    env = gym.make(env_id)
    env.action_space.seed(0)
    env.reset(seed=0)
    scene: Any = env.unwrapped

    def frame() -> Any:
        return scene.render_view(scene.sample_pose(rng))

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    size = frame().shape[:2]
    rates = {"frames_per_second": _rate(frame, seconds), "steps_per_second": _rate(step, seconds)}
    env.close()
    return {"image_size": size, **rates}


def _rate(work: Callable[[], Any], seconds: float) -> float:
    work()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        work()
        count += 1
    return count / elapsed


def _speed(env_id: str, seconds: float) -> Speed:
    try:
        found = probe("gqn_rl.envs.doctor:measure", env_id, seconds, timeout=START_TIMEOUT + 2 * seconds)
    except ProbeError as error:
        return Speed(env_id, problem=str(error))
    return Speed(env_id, **{**found, "image_size": tuple(found["image_size"])})


def _concurrent_frames(problems: list[str], advice: list[str]) -> int:
    """How many of several processes render their first frame side by side; adds what went wrong to the lists."""
    probes = [_Probe("gqn_rl.envs.doctor:first_frame") for _ in range(PROCESSES)]
    failures = []
    try:
        for each in probes:
            try:
                each.result(START_TIMEOUT)
            except ProbeError as error:
                failures.append(str(error))
    finally:
        for each in probes:
            each.close()
    if failures:
        problems.append(f"{len(failures)} of {PROCESSES} processes that rendered side by side failed: {failures[0]}")
        advice.append(
            "keep all environments in one process, as is known to be needed with some GPU drivers "
            "(google-deepmind/mujoco issue 3444)"
        )
    return PROCESSES - len(failures)


def _hardware_advice(opengl: OpenGL) -> list[str]:
    if opengl.software and Path("/dev/nvidiactl").exists():
        return [
            "an NVIDIA GPU is here, but OpenGL does not use it: install the driver's EGL library; "
            "in a container, start it with the driver capability `graphics`"
        ]
    return []


def _remedy() -> str:
    """What to set or to install where no frame comes out: the first headless backend that works, if there is one."""
    if platform.system() != "Linux":
        return "unset MUJOCO_GL"
    current = os.environ.get("MUJOCO_GL", "").strip().lower()
    # PyOpenGL's own choice of platform, which mujoco makes when it is imported, would contradict another backend.
    inherited = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    for backend in HEADLESS:
        if backend == current:
            continue
        try:
            probe("gqn_rl.envs.doctor:first_frame", environment={**inherited, "MUJOCO_GL": backend})
        except ProbeError:
            continue
        return f"MUJOCO_GL={backend} works here; type: export MUJOCO_GL={backend}"
    prefix = "" if os.geteuid() == 0 else "sudo "
    return (
        f"on Debian or Ubuntu type: {prefix}apt-get install -y --no-install-recommends {' '.join(OPENGL_PACKAGES)}; "
        "then: export MUJOCO_GL=egl"
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
