"""From a pydantic error to one sentence: the source, the dotted key, the value, what is allowed.

Helper of `hep_shared.config`. The first half walks the annotations of nested models and of unions that are
discriminated by ``kind``; the second half writes the sentences.
"""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Data = dict[str, Any]
Keys = Sequence[str | int]


@dataclass(frozen=True)
class Layer:
    """One source of configuration values, for example a preset, and what it gives."""

    source: str
    data: Data


def is_model(option: Any) -> bool:
    """Whether an annotation is a section."""
    return isinstance(option, type) and issubclass(option, BaseModel)


def options_of(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without Annotated and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return options_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in options_of(part)]
    return [] if annotation is type(None) else [annotation]


def children_of(options: Iterable[Any], key: object) -> list[Any]:
    """What may stand under a key (or an index) of any of the options."""
    children: list[Any] = []
    for option in options:
        if is_model(option):
            field = option.model_fields.get(key)
            children += options_of(field.annotation) if field else []
        elif get_origin(option) is not Literal:
            items = [item for item in get_args(option) if item is not Ellipsis]
            children += options_of(items[-1]) if items else []  # list[X], tuple[X, ...], dict[K, X]
    return children


def kinds_of(option: Any) -> tuple[Any, ...]:
    """The values of ``kind`` that select a section of a union."""
    field = option.model_fields.get("kind") if is_model(option) else None
    return get_args(field.annotation) if field else ()


def of_kind(options: list[Any], kind: object) -> list[Any]:
    """The options that a ``kind`` selects; all of them when it selects none."""
    return [option for option in options if kind in kinds_of(option)] or options


def nearest(word: str, words: Iterable[str]) -> str:
    """A closing question when one of the words is close to the word given, else nothing."""
    close = get_close_matches(word, list(words), 1)
    return f", did you mean '{close[0]}'" if close else ""


def any_of(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *others, last = list(dict.fromkeys(words)) or ["none"]
    return f"{', '.join(others)} or {last}" if others else last


def explain(details: Iterable[Any], cls: type[BaseModel], data: Data, layers: list[Layer]) -> str:
    """Join the sentences about every problem of one validation.

    Args:
        details: ``ValidationError.errors()``.
        cls: The root model.
        data: The merged data that was validated.
        layers: Where the data came from, lowest first, without the defaults.

    Returns:
        One sentence for one problem; several are joined by semicolons.
    """
    clauses = [_clause(cls, data, layers, detail) for detail in details]
    return "; ".join(dict.fromkeys(clauses)) + "."


def _clause(cls: type[BaseModel], data: Data, layers: list[Layer], detail: Any) -> str:
    problem, value = detail["type"], detail["input"]
    keys, options = _locate(cls, data, detail["loc"])
    if problem.startswith("union_tag_"):
        keys = [*keys, "kind"]
        kinds = [str(kind) for option in options for kind in kinds_of(option)]
        if problem == "union_tag_not_found":
            return f"{_dotted(keys)} is missing; allowed are {any_of(kinds)}"
        tag = str(detail["ctx"]["tag"])
        problem_text = f"is '{tag}' but should be {any_of(kinds)}{nearest(tag, kinds)}"
        return f"{_source(layers, keys)}: {_dotted(keys)} {problem_text}"
    if problem == "missing":
        return f"{_dotted(keys)} is missing; give it in --config or as --set {_dotted(keys)}=VALUE"
    if problem == "extra_forbidden":
        hint = _nearest_key(cls, keys, _locate(cls, data, detail["loc"][:-1])[1])
        return f"{_source(layers, keys)}: {_dotted(keys)} (given {_short(value)}) is not a key; {hint}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    if message.startswith("Input "):
        message = f"is {_short(value)} but {message.removeprefix('Input ')}"
    elif not any(
        map(is_model, options)
    ):  # a rule of one value; that of a section says itself what it compares
        message = f"is {_short(value)}: {message}"
    return f"{_source(layers, keys)}: {' '.join(filter(None, [_dotted(keys), message]))}"


def _locate(cls: type[BaseModel], data: Any, loc: Keys) -> tuple[list[str | int], list[Any]]:
    """The user's keys in a pydantic location, which also holds tags of unions, and what may stand there."""
    keys: list[str | int] = []
    options: list[Any] = [cls]
    for position, part in enumerate(loc):
        tagged = [option for option in options if part in kinds_of(option)] if len(options) > 1 else []
        if tagged:
            options = tagged
        elif _holds(data, part) or (position == len(loc) - 1 and any(map(is_model, options))):
            keys.append(part)
            options = children_of(options, part)
            data = data[part] if _holds(data, part) else None
    return keys, options


def _holds(data: Any, key: str | int) -> bool:
    if isinstance(data, Mapping):
        return key in data
    return isinstance(data, list | tuple) and isinstance(key, int) and key < len(data)


def _source(layers: list[Layer], keys: Keys) -> str:
    """The highest layer that holds the key or, for a rule over several keys, its section."""
    while keys:
        for layer in reversed(layers):
            data: Any = layer.data
            for key in keys:
                if not _holds(data, key):
                    break
                data = data[key]
            else:
                return layer.source
        keys = keys[:-1]
    return ", ".join(layer.source for layer in layers) or "defaults"


def _nearest_key(cls: type[BaseModel], keys: Keys, options: list[Any]) -> str:
    """A close name in the same section, else the same name in another one, else the section's names."""
    names = [name for option in options if is_model(option) for name in option.model_fields]
    if close := get_close_matches(str(keys[-1]), names, 1):
        return f"the nearest key is {_dotted([*keys[:-1], close[0]])}"
    elsewhere = [key for key in _all_keys([cls]) if key.split(".")[-1] == keys[-1] and key != _dotted(keys)]
    return f"did you mean {any_of(elsewhere)}" if elsewhere else f"the keys here are {', '.join(names)}"


def _all_keys(options: Iterable[Any], prefix: str = "") -> Iterator[str]:
    for option in options:
        if is_model(option):
            for name, field in option.model_fields.items():
                yield prefix + name
                yield from _all_keys(options_of(field.annotation), f"{prefix}{name}.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))
