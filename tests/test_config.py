"""Configuration: round trips, and one clear line for every kind of mistake."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from gqn_rl.config import Config, UserError, dump_yaml, parse_override, read_yaml, set_dotted
from gqn_rl.data import RecordConfig
from gqn_rl.pretraining import PretrainConfig


class Inner(Config):
    """A part."""

    rate: float = Field(0.5, gt=0)


class Outer(Config):
    """A whole."""

    steps: int = 3
    pairs: tuple[tuple[int, int], ...] = ()
    inner: Inner = Inner()


def test_yaml_round_trip_is_the_same_configuration(tmp_path: Path) -> None:
    config = PretrainConfig(steps=7)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert PretrainConfig.from_yaml(tmp_path / "config.yaml") == config


def test_what_json_cannot_hold_survives_yaml_and_is_text_in_plain_data(tmp_path: Path) -> None:
    free = {"range": [0.7, math.inf], "weights": {0: 1.0}, "none": None}
    config = RecordConfig(env_kwargs=free)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert RecordConfig.from_yaml(tmp_path / "config.yaml") == config
    plain = config.to_dict()["env_kwargs"]
    assert plain == {"range": [0.7, "Infinity"], "weights": {"0": 1.0}, "none": None}
    others = RecordConfig(env_kwargs={**free, "range": (np.float64(0.7), math.inf)})  # as people write it in Python
    assert others.to_yaml() == config.to_yaml()


def test_a_file_states_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("inner: {rate: 2}")
    assert Outer.from_yaml(tmp_path / "c.yaml", {"steps": 9}) == Outer(steps=9, inner=Inner(rate=2.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz: 4", "unknown key 'stepz' (did you mean 'steps'?); valid keys: inner, pairs, steps"),
        ("inner: {rat: 4}", "unknown key 'inner.rat' (did you mean 'rate'?); valid keys: rate"),
        ("steps: many", "'steps' is 'many'"),
        ("inner: {rate: -1}", "'inner.rate' is -1: input should be greater than 0"),
        ("- a list", "the top level must be a mapping"),
        ("steps: [", "line 1: not valid YAML"),
        ("steps: true", "'steps' is True: true and false are no numbers"),
        ("pairs: [[1, true]]", "'pairs' is [[1, True]]: true and false are no numbers"),
        ("steps: 2024-02-30", "not valid YAML: day is out of range for month"),
        ("steps: 4\ninner: {rate: 1}\nsteps: 5", "line 3: not valid YAML: 'steps' stands twice"),
        ("inner: {rate: 1, rate: 2}", "line 1: not valid YAML: 'rate' stands twice"),
    ],
)
def test_each_mistake_is_one_line_with_the_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        Outer.from_yaml(tmp_path / "c.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read configuration .*nothing\.yaml: No such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_overrides_are_yaml_values_at_dotted_keys() -> None:
    assert parse_override("a.b=1e-3") == ("a.b", 0.001)  # for PyYAML alone, whose YAML is 1.1, it is text
    assert parse_override("a=[1, 2]") == ("a", [1, 2])
    values: dict[str, object] = {"a": {"c": 1}}
    set_dotted(values, "a.b", 2)
    set_dotted(values, "d.e", 3)
    assert values == {"a": {"c": 1, "b": 2}, "d": {"e": 3}}
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_override("no equals sign")
    with pytest.raises(UserError, match="the value of override 'a=2024-13-45' is not valid YAML"):
        parse_override("a=2024-13-45")
    with pytest.raises(UserError, match="not a mapping"):
        set_dotted({"a": 1}, "a.b", 2)


def parse_yaml(text: str) -> object:
    return parse_override(f"key={text}")[1]


@given(st.one_of(st.floats(allow_nan=False), st.integers(), st.text(st.sampled_from("1e-+.x_0"), max_size=6)))
def test_numbers_and_text_that_looks_like_them_survive_yaml(value: object) -> None:
    """Also as Python writes a number, which is how people type it: 1e-05."""
    assert parse_yaml(dump_yaml({"a": value})) == {"a": value}
    if isinstance(value, float) and math.isfinite(value):
        assert parse_yaml(f"a: {value!r}") == {"a": value}


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 4  # type: ignore[misc]
