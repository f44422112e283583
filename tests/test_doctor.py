"""The doctor reports what is true, survives every way in which OpenGL fails, and names the remedy."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

import gymnasium as gym
import pytest

from gqn_rl.envs import doctor
from gqn_rl.envs.gl_context import HINT

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    return doctor.diagnose(seconds=0.2)


def test_all_is_well_where_the_tests_run(report: doctor.Report) -> None:
    assert report.healthy, str(report)
    assert report.concurrent == doctor.PROCESSES
    assert report.backend == os.environ.get("MUJOCO_GL", "")


def test_every_registered_environment_is_measured(report: doctor.Report) -> None:
    registered = {env_id for env_id in gym.registry if env_id.startswith("gqn_rl/")} - {doctor.RIG}
    assert registered
    assert {speed.env_id for speed in report.speeds} == registered
    for speed in report.speeds:
        assert speed.frames_per_second > 0
        assert speed.steps_per_second > 0
        assert speed.image_size == gym.make(speed.env_id).unwrapped.image_size


def test_text_states_what_was_found(report: doctor.Report) -> None:
    text = str(report)
    assert report.opengl is not None
    for fact in (report.opengl.renderer, report.opengl.vendor, report.opengl.version, report.backend):
        assert fact in text
    assert f"mujoco {metadata.version('mujoco')}" in text
    assert f"numpy {metadata.version('numpy')}" in text
    assert text.splitlines()[-1].endswith("rendering works")


def test_unusable_backend_is_reported_with_one_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no-such-backend")
    assert doctor.main(seconds=0.2) == 1
    output = capsys.readouterr().out
    assert "no-such-backend" in output
    assert re.search(rf"^do this .*export MUJOCO_GL=({'|'.join(doctor.HEADLESS)})$", output, re.MULTILINE)


def test_without_any_opengl_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Stands in for a machine without OpenGL libraries, where importing PyOpenGL's GL fails.
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL" / "__init__.py").write_text("raise ImportError('no OpenGL library')")
    monkeypatch.syspath_prepend(tmp_path)
    report = doctor.diagnose(seconds=0.2)
    assert not report.healthy
    assert report.opengl is None
    assert " ".join(doctor.OPENGL_PACKAGES) in str(report)


def test_probe_returns_what_the_function_returns() -> None:
    assert doctor.probe("math:gcd", 12, 18) == 6
    assert doctor.probe("os:getpid") != os.getpid()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("os:abort", (), "SIGABRT"),
        ("math:sqrt", (-1,), "ValueError"),
        ("sys:exit", (3,), "exit code 3"),
        ("no_such_module:f", (), "no_such_module"),
    ],
)
def test_probe_that_fails_says_how(function: str, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(doctor.ProbeError, match=message):
        doctor.probe(function, *arguments)


def test_probe_that_hangs_is_given_up() -> None:
    with pytest.raises(doctor.ProbeError, match="no answer within 1 seconds"):
        doctor.probe("time:sleep", 600, timeout=1)


def test_one_list_of_packages_everywhere() -> None:
    packages = " ".join(doctor.OPENGL_PACKAGES)
    assert packages in HINT
    assert packages in (ROOT / "scripts" / "setup.sh").read_text()
    assert packages in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("renderer", "version", "software"),
    [
        ("llvmpipe (LLVM 15.0.6, 256 bits)", "4.5 (Compatibility Profile) Mesa 22.3.6", True),
        ("softpipe", "3.3 (Compatibility Profile) Mesa 22.3.6", True),
        ("NVIDIA H100 80GB HBM3/PCIe/SSE2", "4.6.0 NVIDIA 550.90.07", False),
        ("Mesa Intel(R) UHD Graphics 620 (KBL GT2)", "4.6 (Compatibility Profile) Mesa 22.3.6", False),
    ],
)
def test_software_is_told_from_hardware(renderer: str, version: str, software: bool) -> None:
    assert doctor.OpenGL("vendor", renderer, version).software is software


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_no_time_to_measure_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds must be positive, got {seconds}"):
        doctor.diagnose(seconds)
