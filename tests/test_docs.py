"""What the documentation tells people to type works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import cli_environment

from gqn_rl import cli
from gqn_rl.agents.benchmark import check, expand
from gqn_rl.agents.training import TrainConfig
from gqn_rl.config import Config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *("README.md", "docs/camera_rig.md", "docs/imagination.md"),
    *("docs/benchmark.md", "docs/training.md", "docs/own_encoder.md", "docs/own_environment.md", "docs/pretraining.md"),
    *("benchmarks/README.md", "examples/own_env/README.md"),
]


def _python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str) -> None:
    lines = re.findall(r"(?:python train\.py|^    gqn-rl |`gqn-rl )([^`\n]*)", (ROOT / page).read_text(), re.MULTILINE)
    for line in lines:
        arguments = shlex.split(line, comments=True)
        cli._parser().parse_args(cli._with_command(arguments))  # exits where it does not understand


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        names = re.findall(r"\]\(((?!http)[^)#]+)\)", text) + re.findall(
            r"`((?:docs|configs|benchmarks|examples)/[^`* ]+)`", text
        )
        assert "{{" not in text, f"{page} has a place still to fill"
        missing = [name for name in names if not any((base / name).exists() for base in (ROOT, (ROOT / page).parent))]
        assert not missing, f"{page} names {missing}"


def test_readme_python_runs() -> None:
    (block,) = _python_blocks("README.md")
    assert "15_000" in block
    exec(compile(block.replace("15_000", "120"), "README.md", "exec"), {})


def test_own_environment_as_a_new_user_would(tmp_path: Path) -> None:
    (block,) = _python_blocks("docs/own_environment.md")
    (tmp_path / "disc_world.py").write_text(block)
    small = "--set batch=16 --set drawn=4 --set held_out=16 --steps 2 --wandb disabled --threads 1"
    commands = [
        "record --env disc_world:DiscWorld-v0 --scenes 64 --workers 2 --out data/disc",
        f"pretrain --data data/disc --out encoders/disc {small}",
        "train --env disc_world:DiscWorld-v0 --encoder encoders/disc --steps 120 --out runs/disc --set wandb=disabled "
        "--set evaluation.episodes=2 --set threads=1",
    ]
    for command in commands:
        arguments = [sys.executable, str(ROOT / "train.py"), *command.split()]
        done = subprocess.run(
            arguments, cwd=tmp_path, env=cli_environment(), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "disc" / "final_model.zip").exists()
    assert list((tmp_path / "runs" / "disc").glob("episodes.*"))
    (use,) = _python_blocks("docs/training.md")
    for ours, theirs in (("arm-reach", "encoders/disc"), ("runs/arm_reach-seed0", "runs/disc")):
        assert f'"{ours}"' in use
        use = use.replace(f'"{ours}"', f'"{theirs}"')
    (tmp_path / "use.py").write_text(use + "assert dones.shape == (1,)")
    subprocess.run([sys.executable, "use.py"], cwd=tmp_path, env=cli_environment(), timeout=300, check=True)
    (tmp_path / "use.py").write_text(use.replace('"encoders/disc"', '"arm-reach"'))
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, env=cli_environment(), capture_output=True, text=True, check=False
    )
    assert "was trained with encoder encoders/disc" in done.stderr


def _keys(model: type[Config], prefix: str = "") -> dict[str, str]:
    """What of ``model`` can be set, by dotted name: its default as YAML, nothing where it has none."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            keys |= _keys(field.annotation, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            keys[prefix + name] = "" if field.is_required() else f"`{json.dumps(default)}`".replace('"', "")
    return keys


def test_every_key_of_a_run_is_explained_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]*?) ?\| ", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    assert dict(rows) == _keys(TrainConfig)
    assert len(dict(rows)) == len(rows)


def test_the_grid_to_copy_runs_on_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/benchmark.md").read_text(), re.DOTALL)
    path = tmp_path / "my_grid.yaml"
    path.write_text(text)
    arms = ("state", "gqn", "pixels_aug", "pixels")
    jobs = expand([path], (0, 1), tmp_path / "runs", tmp_path / "results")
    assert [job.name for job in jobs[4:]] == [f"my_task/{arm}-seed1" for arm in arms]
    monkeypatch.syspath_prepend(ROOT / "examples" / "own_env")
    facts = check(job for job in jobs if job.config.encoder is None)  # encoders/mine is the reader's
    assert {arm: (known.views, known.encoder_hash) for (_, arm), known in facts.items()} == {
        arm: (0 if arm == "state" else 3, None) for arm in arms if arm != "gqn"
    }
