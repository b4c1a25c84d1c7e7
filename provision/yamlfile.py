"""YAML files whose every error names the file, the line, the key and the nearest valid word."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from provision.errors import ConfigError

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its values and the line on which each of them stands."""

    path: Path
    data: Any
    lines: dict[Location, int]

    def where(self, location: Iterable[str | int]) -> str:
        """`file:line: key.path` of a value, or of the nearest value around it."""
        known: Location = ()
        for step in location:
            if (*known, step) in self.lines:
                known = (*known, step)
        key = ".".join(map(str, known))
        return f"{self.path}:{self.lines.get(known, 1)}: {key}" if key else f"{self.path}:{self.lines.get((), 1)}"


class StrictModel(BaseModel):
    """A frozen part of a file that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            valid = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in valid:
                    raise PydanticCustomError(
                        "unknown_key", "{message}", {"key": str(key), "message": unknown("key", key, valid)}
                    )
        return data


def unknown(kind: str, word: Any, valid: Iterable[str]) -> str:
    """`unknown key 'vuss'; did you mean 'vus'?`, with all valid words when none is near."""
    words = {valid_word.lower(): valid_word for valid_word in sorted(valid)}
    near = difflib.get_close_matches(str(word).strip().lower(), words, n=1)
    meant = f"did you mean {words[near[0]]!r}?" if near else f"valid: {', '.join(sorted(valid))}"
    return f"unknown {kind} {word!r}; {meant}"


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps line numbers and refuses a key given twice."""

    lines: dict[Location, int]

    def build(self, node: yaml.Node, location: Location) -> Any:
        """The node's value; notes its line and its children's."""
        self.lines[location] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*location, index)) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.construct_object(node)
        self.flatten_mapping(node)
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in result:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands here twice", problem_mark=key_node.start_mark)
            result[key] = self.build(value_node, (*location, key))
            self.lines[*location, key] = key_node.start_mark.line + 1
        return result


def parse(path: Path, text: str, error_class: type[ConfigError] = ConfigError) -> Document:
    """Parse YAML text; errors name `path` and the line."""
    lines: dict[Location, int] = {}
    try:
        data = _load(text, lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise error_class(f"{path}:{line}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise error_class(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise error_class(f"{path}: not YAML that can be read: it holds itself, or is nested too deeply") from None
    return Document(path, data, lines)


def _load(text: str, lines: dict[Location, int]) -> Any:
    """The text's values; notes in `lines` where each stands."""
    loader = _Loader(text)
    loader.lines = lines
    try:
        node = loader.get_single_node()
        return None if node is None else loader.build(node, ())
    finally:
        loader.dispose()


Model = TypeVar("Model", bound=BaseModel)


def validate(document: Document, model: type[Model], error_class: type[ConfigError]) -> Model:
    """The document as a model; the first error as a sentence with its place."""
    if not isinstance(document.data, dict):
        raise error_class(f"{document.path}: expected keys and values, found {type(document.data).__name__}")
    try:
        return model.model_validate(document.data)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        location = list(error["loc"])
        if error["type"] == "unknown_key":
            location.append(error["ctx"]["key"])
        raise error_class(f"{document.where(location)}: {message(failure)}") from None


def message(failure: ValidationError) -> str:
    """The first error in words."""
    error = failure.errors(include_url=False)[0]
    if error["type"] == "missing":
        return f"the key {error['loc'][-1]!r} is missing"
    return error["msg"].removeprefix("Value error, ")
