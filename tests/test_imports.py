"""Who may import whom, what an import costs, and that each class exists once under all its import names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Folder in the clone -> its import name.
PACKAGES = {"gqn_rl": "gqn_rl", "envs": "gqn_rl.envs", "agents": "gqn_rl.agents"}
FILES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in PACKAGES}
#: What composes everything, and may therefore import everything, once a command runs.
COMMANDS = [path for path in FILES["gqn_rl"] if path.name == "cli.py" or path.parent.name == "commands"]
OTHER_FOLDERS = ("tests", "scripts", "benchmarks", "docs", "examples")
ALL_FILES = sorted(
    [
        *(path for files in FILES.values() for path in files),
        *(path for folder in OTHER_FOLDERS for path in (ROOT / folder).rglob("*.py")),
        *ROOT.glob("*.py"),
    ]
)
HEAVY = ("torch", "mujoco", "stable_baselines3")
ENTRY = ("gqn_rl.cli", "gqn_rl.commands")
#: Modules of gqn_rl that environments may use, which know nothing of networks.
FOR_ENVS = ("gqn_rl.envs", "gqn_rl.types", "gqn_rl.cameras", "gqn_rl.aliases")


@dataclass(frozen=True)
class Import:
    """One imported name, such as ``torch.nn`` or ``gqn_rl.types.Views``."""

    name: str
    line: int
    lazy: bool  #: inside a function, or for type checkers only

    def within(self, *packages: str) -> bool:
        """Whether the name lies in one of ``packages``."""
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)


def imports(source: str) -> Iterator[Import]:
    """Every import of a module, ``import_module`` with a literal name included."""
    yield from _imports(ast.parse(source), lazy=False)


def _imports(node: ast.AST, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        yield from (Import(f"{node.module}.{alias.name}", node.lineno, lazy) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        yield from (Import(str(name.value), node.lineno, lazy) for name in node.args if isinstance(name, ast.Constant))
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.body:
            yield from _imports(child, lazy=True)
        for child in node.orelse:
            yield from _imports(child, lazy)
        return
    lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, lazy)


def complain(path: Path, broken: list[Import]) -> str:
    return "; ".join(f"{path.relative_to(ROOT)}:{each.line} imports {each.name}" for each in broken)


def run(code: str, *options: str, cwd: Path = ROOT) -> str:
    """Output of a fresh Python that runs ``code``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a.b, c
from d import e
if TYPE_CHECKING:
    import f
else:
    import g
try:
    import h
except ImportError:
    h = importlib.import_module("i.j")
class C:
    import k
def outer():
    from l import m
    import_module("n")
"""
    found = {each.name: each.lazy for each in imports(source)}
    eager = {"a.b", "c", "d.e", "g", "h", "i.j", "k"}
    assert found == {name: name not in eager for name in (*eager, "f", "l.m", "n")}


def test_there_is_something_to_check() -> None:
    assert all(FILES.values())
    assert {"gqn_rl/cli.py", "gqn_rl/commands/train.py"} <= set(map(relative, COMMANDS))


@pytest.mark.parametrize("path", [path for path in FILES["gqn_rl"] if path not in COMMANDS], ids=relative)
def test_core_knows_neither_simulator_nor_rl_library(path: Path) -> None:
    never = ("stable_baselines3", "wandb", "gqn_rl.envs", "gqn_rl.agents", *ENTRY, "envs", "agents")
    broken = [
        each for each in imports(path.read_text()) if each.within(*never) or (each.within("mujoco") and not each.lazy)
    ]
    assert not broken, complain(path, broken)


@pytest.mark.parametrize("path", FILES["envs"], ids=relative)
def test_environments_know_no_networks(path: Path) -> None:
    broken = [
        each
        for each in imports(path.read_text())
        if each.within("torch", "stable_baselines3", "wandb", "envs", "agents")
        or (each.within("gqn_rl") and not each.within(*FOR_ENVS))
    ]
    assert not broken, complain(path, broken)


@pytest.mark.parametrize("path", FILES["agents"], ids=relative)
def test_agents_know_no_environments(path: Path) -> None:
    broken = [each for each in imports(path.read_text()) if each.within("gqn_rl.envs", *ENTRY, "envs", "agents")]
    assert not broken, complain(path, broken)


@pytest.mark.parametrize("path", [*COMMANDS, ROOT / "train.py"], ids=relative)
def test_entry_point_imports_heavy_packages_lazily(path: Path) -> None:
    heavy = (*HEAVY, "wandb", "matplotlib", "gqn_rl.envs", "gqn_rl.agents")
    broken = [each for each in imports(path.read_text()) if each.within(*heavy) and not each.lazy]
    assert not broken, complain(path, broken)


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_import_is_a_declared_dependency(folder: str) -> None:
    import tomllib
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    required, extra = (
        {canonicalize_name(Requirement(line).name) for line in lines} for lines in (project["dependencies"], optional)
    )
    owners = packages_distributions()
    for path in FILES[folder]:
        for each in imports(path.read_text()):
            top = each.name.partition(".")[0]
            if top in sys.stdlib_module_names or top == "gqn_rl":
                continue
            owner = {canonicalize_name(name) for name in owners.get(top, [top])}
            allowed = required | extra if each.lazy else required
            assert owner & allowed, f"{relative(path)}:{each.line}: {each.name} is in no dependency of pyproject.toml"


@pytest.mark.parametrize("path", ALL_FILES, ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{relative(path)} has no docstring"
    assert path.name not in ("utils.py", "util.py", "helpers.py", "misc.py")


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_short_import_name_is_an_alias_down_to_the_submodules(folder: str) -> None:
    modules = [path.stem for path in FILES[folder] if path.parent == ROOT / folder and path.stem != "__init__"]
    assert modules
    code = f"""
import importlib.util, os, sys
os.environ.setdefault("MUJOCO_GL", "egl")
import {folder}
for name in {modules}:
    short = importlib.import_module("{folder}." + name)
    long = importlib.import_module("gqn_rl.{folder}." + name)
    assert short is long, name
    assert sys.modules["{folder}." + name] is long
    assert long.__name__ == long.__spec__.name == "gqn_rl.{folder}." + name
    assert getattr({folder}, name) is long
assert {folder} is sys.modules["gqn_rl.{folder}"]
assert importlib.util.find_spec("{folder}.no_such_module") is None
"""
    run(code)


@pytest.mark.parametrize("first", ["envs.arm", "gqn_rl.envs.arm"])
def test_class_is_one_object_whichever_name_comes_first(first: str) -> None:
    code = f"""
import os, pickle
os.environ.setdefault("MUJOCO_GL", "egl")
import {first}
from envs.arm import ArmReach as short
from gqn_rl.envs.arm import ArmReach as long
assert short is long and short.__module__ == "gqn_rl.envs.arm"
assert pickle.loads(pickle.dumps(short)) is long
"""
    run(code)


def test_missing_submodule_is_the_usual_error() -> None:
    assert (
        run("try:\n    import envs.no_such_module\nexcept ModuleNotFoundError as error:\n    print(error)")
        == "No module named 'envs.no_such_module'"
    )


@pytest.mark.parametrize("module", ["gqn_rl", "envs", "gqn_rl.agents", "gqn_rl.cli"])
def test_import_is_cheap(module: str) -> None:
    assert run(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_importing_the_package_registers_the_environments() -> None:
    assert run("import gymnasium, gqn_rl; print(gymnasium.spec('gqn_rl/ArmReach-v0').id)") == "gqn_rl/ArmReach-v0"


@pytest.mark.parametrize("cwd", [ROOT, ROOT.parent], ids=["in the clone", "elsewhere"])
def test_help_answers_at_once(cwd: Path) -> None:
    code = f"""
import runpy, sys
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded", [name for name in {HEAVY} if name in sys.modules])
"""
    *text, loaded = run(f"import sys; sys.path.insert(0, {str(ROOT)!r})" + code, cwd=cwd).splitlines()
    assert any("usage" in line.lower() for line in text)
    assert loaded == "loaded []"
