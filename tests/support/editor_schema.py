"""What editors think of a configuration: its JSON Schema."""

from __future__ import annotations

import functools
from datetime import date
from typing import Any

import jsonschema

from pyexperimenter.config import json_schema, yaml_file
from pyexperimenter.config.source import plain


def refusals(text: str) -> list[str]:
    """Return why the JSON Schema refuses a configuration in YAML.

    Keys may be in upper or lower case, as the library allows. (Editors want them as in the documentation.)
    """
    errors = _validator().iter_errors(_as_json(plain(yaml_file.read(text)[0])))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    for section in (schema, *schema["$defs"].values()):
        section["properties"] = {key.lower(): value for key, value in section.get("properties", {}).items()}
        section["required"] = [key.lower() for key in section.get("required", ())]
    return jsonschema.Draft202012Validator(schema)


def _as_json(value: Any) -> Any:
    """Return what an editor, which has YAML 1.2, sees: keys and times are texts."""
    if isinstance(value, dict):
        return {str(key).lower(): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
