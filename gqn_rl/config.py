"""Strict, frozen configuration: YAML in, one clear line out when something in it is wrong.

Each part of the toolkit declares its own :class:`Config` beside the code that it configures. A YAML file states
only what differs from the defaults; an unknown key, a wrong type or a value out of range is refused before any
work starts, with the key's full path, the value and the valid choices.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, field_validator


class UserError(Exception):
    """Something the user can mend: printed as one line, without a traceback, and the exit code is 2."""


class Config(BaseModel):
    """Base of every configuration model: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if _holds_bool(value) and kinds & {int, float} and not kinds & {bool, Any}:
            raise ValueError("true and false are no numbers")
        return value

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "configuration") -> Self:
        """Validate ``values``; raises :class:`UserError` naming the field, the value and the valid choices."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(_explain(cls, detail) for detail in error.errors())
            raise UserError(f"{source}: {problems}") from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file and apply dotted ``overrides`` such as ``{"algorithm.kwargs.gamma": 0.9}``."""
        values = read_yaml(path)
        for key, value in (overrides or {}).items():
            set_dotted(values, key, value)
        return cls.from_mapping(values, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the same after a round trip through JSON or YAML.

        JSON has no infinities, and no keys but text: here they are text.
        """
        return json.loads(self.model_dump_json(), parse_constant=str)

    def to_yaml(self) -> str:
        """The full resolved configuration as YAML text, infinities and whole numbers as keys included."""
        return dump_yaml(self.model_dump())


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number, as YAML 1.2 and everybody does; for YAML 1.1, which PyYAML reads, it is text.

    A key that stands twice is refused, as YAML says; PyYAML would take the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping that ``node`` holds."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back: text that looks like such a number has quotes."""


# What YAML has no word for, such as NumPy's numbers, is written as in JSON.
_Dumper.add_multi_representer(
    object, lambda dumper, value: dumper.represent_data(TypeAdapter(Any).dump_python(value, mode="json"))
)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def dump_yaml(values: Mapping[str, Any]) -> str:
    """``values`` as YAML text, in their order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from ``path``; raises :class:`UserError` when it is missing, malformed or no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"configuration {path} is no text file") from None
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: the top level must be a mapping of keys to values, got {type(values).__name__}")
    return values


def none_where_said(value: Any) -> Any:
    """None where ``value`` is the word ``none`` or ``null``, as people write it on a command line; else ``value``."""
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"] = value`` for key ``"a.b"``, making the mappings between where they are missing."""
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"cannot set {key!r}: {parent!r} is not a mapping but {child!r}")
        values = child
    values[last] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_override(text: str) -> tuple[str, Any]:
    """``"total_steps=5000"`` to ``("total_steps", 5000)``; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"an override is KEY=VALUE, got {text!r}")
    try:
        return key, yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that there is not
        raise UserError(f"the value of override {text!r} is not valid YAML") from None


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_bool, value)))


def _kinds(annotation: Any) -> set[Any]:
    """The types that ``annotation`` is a union of, and what they consist of."""
    return {annotation}.union(*map(_kinds, getattr(annotation, "__args__", ())))


def _explain(model: type[BaseModel], detail: Any) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        valid = sorted(_fields_at(model, detail["loc"][:-1]))
        close = difflib.get_close_matches(str(detail["loc"][-1]), valid, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"unknown key {path!r}{hint}; valid keys: {', '.join(valid)}"
    if detail["type"] == "missing":
        return f"{path!r} is required"
    message = detail["msg"].removeprefix("Value error, ")
    message = f"{message[:1].lower()}{message[1:]}"
    return f"{path!r} is {detail['input']!r}: {message}" if path else message  # of settings that do not go together


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the sub-model that ``loc`` leads to."""
    current: Any = model
    for part in loc:
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            continue
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        current = models[0] if models else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
