"""Configurations: pydantic models filled from defaults < preset < file < ``--set a.b=1``.

Mappings are merged key by key. Where a section is a union discriminated by ``kind``, choosing another member
discards what lower layers said about the former one; kinds that one model serves share their keys. A preset
or file may name a preset to start from with ``base: NAME``. Every mistake becomes one sentence that names its
source, the dotted key, the value received, what is allowed and the nearest valid key.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hep_shared.config_errors import (
    Data,
    Layer,
    any_of,
    children_of,
    explain,
    is_model,
    nearest,
    of_kind,
    options_of,
)
from hep_shared.errors import ConfigError
from hep_shared.files import json_ready

ModelT = TypeVar("ModelT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every section: immutable, no unknown keys, defaults are checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def load_config(
    cls: type[ModelT],
    *,
    presets: str,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] | None = (),
) -> ModelT:
    """Build a configuration from its layers.

    Args:
        cls: The root model.
        presets: Package that holds the preset files, for example ``"megii_xec.presets"``.
        preset: Name of a preset, without ``.yaml``.
        file: A YAML file of the user.
        overrides: Items ``dotted.key=VALUE``; VALUE is YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: A layer cannot be read, or the configuration is not valid.
    """
    layers: list[Layer] = []
    if preset is not None:
        layers += _preset_layers(presets, preset)
    if file is not None:
        layers += _file_layers(presets, Path(file))
    data = _defaults(cls)
    for layer in layers:
        data = _merge(data, layer.data, [cls])
    settings = _parse_overrides(overrides or ())
    data = _merge(data, reduce(_overlay, (layer.data for layer in settings), {}), [cls])
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), cls, data, [*layers, *settings])) from error


def list_presets(presets: str) -> list[str]:
    """Names of the presets in a package.

    Args:
        presets: Package that holds the preset files.

    Returns:
        Names without ``.yaml``, sorted.
    """
    names = (entry.name for entry in resources.files(presets).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def to_plain(config: BaseModel) -> Data:
    """A configuration as it is stored in the run directory.

    Args:
        config: Any pydantic model.

    Returns:
        Nested dicts, lists, numbers and strings, ready for JSON.
    """
    return cast(Data, json_ready(config.model_dump(mode="json")))


# Reading layers


def _read_yaml(text: str, source: str) -> Any:
    try:
        _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), source)
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from error


def _refuse_duplicates(node: yaml.Node | None, source: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{source} gives the key {name} twice, the second time in line {line}.")
            seen.add(name)
            _refuse_duplicates(value, source)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, source)


def _preset_layers(presets: str, name: str, below: tuple[str, ...] = ()) -> list[Layer]:
    known = list_presets(presets)
    if name not in known:
        raise ConfigError(
            f"there is no preset '{name}'{nearest(name, known)}; the presets are {any_of(known)}."
        )
    if name in below:
        raise ConfigError(f"the presets {' -> '.join([*below, name])} start from each other.")
    text = (resources.files(presets) / f"{name}.yaml").read_text(encoding="utf-8")
    return _with_base(presets, Layer(f"preset {name}", _mapping(text, f"preset {name}")), (*below, name))


def _file_layers(presets: str, file: Path) -> list[Layer]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--config {file} cannot be read ({reason}); give a readable YAML file.") from error
    return _with_base(presets, Layer(str(file), _mapping(text, str(file))), ())


def _mapping(text: str, source: str) -> Data:
    data = _read_yaml(text, source)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source} holds a {type(data).__name__} but should hold a mapping of keys to values."
        )
    return data


def _with_base(presets: str, layer: Layer, below: tuple[str, ...]) -> list[Layer]:
    if "base" not in layer.data:
        return [layer]
    own = {key: value for key, value in layer.data.items() if key != "base"}
    return [*_preset_layers(presets, str(layer.data["base"]), below), Layer(layer.source, own)]


def _parse_overrides(overrides: Iterable[str]) -> list[Layer]:
    layers = []
    for item in overrides:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"--set {item} should have the form dotted.key=VALUE, for example train.seed=1."
            )
        value = _read_yaml(text, f"--set {item}")
        for part in reversed(parts):
            value = {part: value}
        layers.append(Layer(f"--set {item}", value))
    return layers


def _overlay(lower: Any, upper: Any) -> Any:
    """Merge blindly: the order of ``--set`` items must not matter to a change of kind among them."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return lower | {key: _overlay(lower.get(key), value) for key, value in upper.items()}


# Merging along the model


def _merge(lower: Data, upper: Data, options: list[Any]) -> Data:
    merged = dict(lower)
    for key, value in upper.items():
        below = lower.get(key)
        if not isinstance(value, dict):
            merged[key] = value
            continue
        kind_below = below.get("kind") if isinstance(below, dict) else None
        known = children_of(options, key)
        children = of_kind(known, value.get("kind", kind_below))
        if not isinstance(below, dict) or children != of_kind(known, kind_below):
            below = _defaults(children[0]) if len(children) == 1 and is_model(children[0]) else {}
        merged[key] = _merge(below, value, children)
    return merged


def _defaults(cls: type[BaseModel]) -> Data:
    """What the default instances of sections were built with, and mappings, which merge key by key.

    Everything else is left to the model: a validator that fills in fields (the constants of a scheme, say)
    must be able to tell a value that somebody gave from one that nobody did.
    """
    data: Data = {}
    for name, field in cls.model_fields.items():
        options = options_of(field.annotation)
        if field.is_required():
            if len(options) == 1 and is_model(options[0]):
                data[name] = _defaults(options[0])
            continue
        value = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(value, BaseModel):
            kind = {"kind": value.kind} if hasattr(value, "kind") else {}
            data[name] = {**_defaults(type(value)), **value.model_dump(exclude_unset=True), **kind}
        elif isinstance(value, dict):
            data[name] = value
    return data
