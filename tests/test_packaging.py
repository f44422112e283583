"""What is built can be installed beside a project that has its own ``envs/`` folder, and works there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import gqn_rl

ROOT = Path(__file__).resolve().parent.parent
#: What a build needs nothing of, and what would make the copy large.
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs", "data", "wandb"
)


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Output of a command, which must succeed; ``path`` becomes the only PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution, and of the wheel that was built from it, as a packager would."""
    source = tmp_path_factory.mktemp("source") / "clone"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source, cwd=source)
    return target


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"gqn_rl-{gqn_rl.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel, and nothing else, is installed into."""
    target = tmp_path_factory.mktemp("site")
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"),
        *("--target", target, wheel),
        cwd=target,
    )
    return target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with an ``envs`` and an ``agents`` package of its own."""
    for name in ("envs", "agents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"thing = 'the user\\'s {name}'\n")
    return tmp_path


def shipped() -> set[str]:
    """Names in the wheel of every file of the clone that belongs there."""
    names = set()
    for folder, package, patterns in (
        ("gqn_rl", "gqn_rl", ("**/*.py", "py.typed", "pretrained/*.safetensors", "pretrained/*.json")),
        ("envs", "gqn_rl/envs", ("**/*.py", "assets/**/*")),
        ("agents", "gqn_rl/agents", ("**/*.py",)),
        ("configs", "gqn_rl/configs", ("**/*.yaml",)),
    ):
        for pattern in patterns:
            files = [path for path in (ROOT / folder).glob(pattern) if path.is_file() and path.suffix != ".pyc"]
            names |= {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
    return names


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name.split("/")[0] for name in names} == {"gqn_rl", f"gqn_rl-{gqn_rl.__version__}.dist-info"}
    assert {name for name in names if name.startswith("gqn_rl/")} == shipped()


def test_wheel_carries_both_licences(wheel: Path) -> None:
    licences = f"gqn_rl-{gqn_rl.__version__}.dist-info/licenses"
    with zipfile.ZipFile(wheel) as archive:
        assert b"Apache License" in archive.read(f"{licences}/LICENSE")
        assert b"Kinova Robotics" in archive.read(f"{licences}/envs/assets/kinova/LICENSE")


def test_source_distribution_can_be_worked_on(dist: Path) -> None:
    root = f"gqn_rl-{gqn_rl.__version__}"
    with tarfile.open(dist / f"{root}.tar.gz") as archive:
        names = set(archive.getnames())
    files = ["train.py", "Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "scripts/setup.sh", "envs/arm.py"]
    files += [f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")]
    files += [f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")]
    for pattern in ("*.py", "own_env/*.*", "own_env/my_pkg/*.*", "own_env/tests/*.py"):
        files += [path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob(pattern)]
    assert {f"{root}/{name}" for name in files} <= names


def test_user_keeps_their_own_envs_and_agents(installed: Path, project: Path) -> None:
    code = """
import envs, agents
assert (envs.thing, agents.thing) == ("the user's envs", "the user's agents")
import gqn_rl.envs.arm, gqn_rl.agents, sys
from envs import thing
assert thing == "the user's envs"
assert sys.modules["envs"] is not sys.modules["gqn_rl.envs"]
print(gqn_rl.envs.arm.__file__)
"""
    file = run(sys.executable, "-c", code, cwd=project, path=installed).strip()
    assert file == str(installed / "gqn_rl" / "envs" / "arm.py")


def test_short_names_do_not_exist_once_installed(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, gqn_rl
print([importlib.util.find_spec(name) for name in ("envs", "agents", "configs")])
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path, path=installed).strip() == "[None, None, None]"


def test_installed_environment_renders(installed: Path, project: Path) -> None:
    code = """
import gymnasium as gym
env = gym.make("gqn_rl:gqn_rl/ArmReach-v0", obs_mode="pixels", image_size=64)
frame, _ = env.reset(seed=0)
print(frame.shape[:2], frame.std() > 1)
env.close()
"""
    assert run(sys.executable, "-c", code, cwd=project, path=installed).strip() == "(64, 64) True"


def test_installed_command_finds_its_configurations(installed: Path, project: Path) -> None:
    command = installed / "bin" / "gqn-rl"
    version = run(sys.executable, command, "--version", cwd=project, path=installed)
    assert gqn_rl.__version__ in version
    code = "from gqn_rl.commands.configurations import find_config; print(find_config('arm_reach'))"
    config = run(sys.executable, "-c", code, cwd=project, path=installed).strip()
    assert config == str(installed / "gqn_rl" / "configs" / "arm_reach.yaml")


@pytest.mark.slow
def test_template_runs_beside_the_users_own_envs(installed: Path, project: Path) -> None:
    """Every command of the template's README up to the large ones, word for word."""
    template = ROOT / "examples" / "own_env"
    shutil.copytree(template / "my_pkg", project / "my_pkg", ignore=NOT_SOURCE)
    # In every process of every command, the user's packages find each other.
    with (project / "my_pkg" / "__init__.py").open("a") as file:
        file.write("\nimport agents\nimport envs\nassert (envs.thing, agents.thing) == ")
        file.write("('the user\\'s envs', 'the user\\'s agents')\n")
    readme, _, _ = (template / "README.md").read_text().partition("## Do it")
    commands = re.findall(r"^    gqn-rl (.*)", readme, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["view", "record", "pretrain", "train"]
    for command in commands:
        run(sys.executable, installed / "bin" / "gqn-rl", *shlex.split(command), cwd=project, path=installed)
    assert (project / "sheet.png").exists()
    assert (project / "runs" / "tiny" / "final_model.zip").exists()
