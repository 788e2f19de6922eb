"""A JSON schema of sweeps, from which editors complete and check a config while it is written."""

from __future__ import annotations

import inspect
from typing import Any

import pydantic

from harness import plugins
from harness.config.parameters import describe, meanings, parameters
from harness.config.sweep import DatasetEntry, GeneratorEntry, MethodEntry, Sweep

_ENTRIES = {"dataset": DatasetEntry, "method": MethodEntry, "generator": GeneratorEntry}


def sweep_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a sweep's YAML, with the parameters of built-in plug-ins.

    A plug-in of somebody else's, "module:Class" or a file, may have any parameters.
    """
    schema = Sweep.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for kind, entry in _ENTRIES.items():
        body = schema["$defs"][entry.__name__]
        names = plugins.names(kind)
        body["properties"]["use"] = {"anyOf": [{"enum": names}, {"type": "string"}]}
        body["allOf"] = [_parameters_of(kind, name) for name in names]
    return schema


def _parameters_of(kind: str, name: str) -> dict[str, Any]:
    """A rule: where ``use`` is this name, ``params`` are its own."""
    cls = plugins.find(kind, name)
    words = meanings(cls)
    properties = {}
    for key, parameter in parameters(cls).items():
        description = f"{words.get(key, '')} ({describe(parameter.annotation)})".strip()
        body = _schema(parameter.adapter) | {"description": description}
        if _plain(parameter.default):
            body["default"] = parameter.default
        properties[key] = body
    params = {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
    }
    return {
        "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
        "then": {"properties": {"params": params}},
    }


def _schema(adapter: pydantic.TypeAdapter[Any] | None) -> dict[str, Any]:
    """Schema of one parameter; anything where there is none to be had."""
    if adapter is None:
        return {}
    try:
        return adapter.json_schema()
    except pydantic.errors.PydanticInvalidForJsonSchema:
        return {}


def _plain(value: Any) -> bool:
    return value is None or (
        isinstance(value, bool | int | float | str) and value not in (float("inf"), -float("inf"))
    )
