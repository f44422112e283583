"""The template of a user's own environment passes its tests; tests/test_packaging.py types its README's commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from gqn_rl import cli

TEMPLATE = Path(__file__).resolve().parent.parent / "examples" / "own_env"


def test_its_own_tests_pass_wherever_it_is_copied(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(TEMPLATE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "data", "encoders", "runs"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_every_command_of_its_readme_is_understood() -> None:
    commands = re.findall(r"^    gqn-rl (.*)", (TEMPLATE / "README.md").read_text(), re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"view", "record", "pretrain", "train", "evaluate"}
    for command in commands:
        cli._parser().parse_args(shlex.split(command))  # exits where it does not understand


def test_the_environment_imports_nothing_but_gymnasium_mujoco_and_numpy() -> None:
    for path in (TEMPLATE / "my_pkg").glob("*.py"):
        imported = set(re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
        assert imported <= {"__future__", "gymnasium", "mujoco", "numpy", "pathlib", "typing"}
