"""Pages that each build generates in docs/_generated: the reference of the configuration, and the notebooks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from pyexperimenter.config import ini_file, json_schema

DOCS = Path(__file__).resolve().parents[1]
NOTEBOOKS = DOCS.parent / "examples" / "notebooks"
GENERATED = DOCS / "_generated"


def setup(app: Sphinx) -> dict[str, Any]:
    """Generate the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", lambda app: generate())
    return {"parallel_read_safe": True}


def generate() -> None:
    """Write all pages and remove old ones. Unchanged files are left alone, as another build may be reading them."""
    pages = {"yaml.md": yaml_reference(), "ini.md": ini_reference()}
    pages |= {f"notebooks/{path.name}": path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")}
    for path in [*GENERATED.rglob("*.md"), *GENERATED.rglob("*.ipynb")]:
        if path.relative_to(GENERATED).as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        path = GENERATED / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_name(f"{path.name}.{os.getpid()}")
            written.write_text(text, encoding="utf-8")
            written.replace(path)


# The YAML


def yaml_reference() -> str:
    """Return the page of all sections and keys of the YAML, from the JSON Schema."""
    schema = json_schema()
    lines = [
        "# Keys of the YAML",
        "",
        "Generated from the JSON Schema of the configuration. [](../configuration.md) explains the keys.",
        "A duration is a number of seconds, or a text such as `90s`, `5m` or `1h30m`. You can use `${VARIABLE}` in any "
        "text, and instead of a number or a boolean.",
    ]
    for path, section in sections_of(schema):
        forms = f": {{{', '.join(section['properties'])}}}" if path[-1:] == ("values",) else ""
        lines += ["", f"## `{'.'.join(path)}{forms}`" if path else "## The file", "", section["description"], ""]
        lines += [_row("key", "type", "default", "meaning"), _row(*["---"] * 4)]
        lines += [
            _row(f"`{key}`", _type(part, schema), _default(key, part, section), _meaning(part, schema))
            for key, part in section["properties"].items()
        ]
    return "\n".join(lines) + "\n"


def sections_of(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield each section with its path in the file, the outermost first; ``<name>`` means any name.

    Alternative forms, such as those of `values`, have the same path.
    """

    def walk(path: tuple[str, ...], part: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        part = resolved(part, schema)
        if "properties" in part:
            yield path, part
        for key, inner in part.get("properties", {}).items():
            yield from walk((*path, key), inner)
        if isinstance(part.get("additionalProperties"), Mapping):
            yield from walk((*path, "<name>"), part["additionalProperties"])
        for form in (*part.get("oneOf", ()), *part.get("anyOf", ()), part.get("items")):
            if form:
                yield from walk(path, form)

    yield from walk((), schema)


def resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the schema with its reference resolved."""
    if "$ref" not in part:
        return part
    found: Mapping[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return {**found, **{key: value for key, value in part.items() if key != "$ref"}}


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _type(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Describe the allowed values in words."""
    part = resolved(part, schema)
    if "pattern" in part and isinstance(part.get("type"), list):  # texts that are allowed, too
        part = {**part, "type": part["type"][0]}
    if "enum" in part:
        return _one_of(f"`{value}`" for value in part["enum"])
    if "properties" in part:
        return "section"
    if str(part.get("description", "")).startswith("SQL type"):
        return "SQL type"
    if "60s" in part.get("examples", ()):
        return "duration"
    for forms in (part.get("oneOf"), part.get("anyOf")):
        if forms:
            return _one_of(_type(form, schema) for form in forms if not _is_elsewhere(form))
    if part.get("type") == "array":
        return f"[{_type(part['items'], schema)}, ...]" if part.get("items") else "list"
    if part.get("type") == "object":
        inner = part.get("additionalProperties")
        return f"{{name: {_type(inner, schema)}}}" if isinstance(inner, Mapping) else "mapping"
    types = part.get("type", "anything")
    return types if isinstance(types, str) else _one_of(types)


def _is_elsewhere(form: Mapping[str, Any]) -> bool:
    """Return whether the table need not list this form: no value, or ``${...}``, which is allowed everywhere."""
    return form.get("type") == "null" or "${" in form.get("description", "")


def _one_of(words: Iterable[str]) -> str:
    *first, last = [word for word in dict.fromkeys(words) if word != "null"]
    return f"{', '.join(first)} or {last}" if first else last


def _default(key: str, part: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if key in section.get("required", ()):
        return "required"
    default = part.get("default")
    if default in (None, [], {}):
        return ""
    return f"`{json.dumps(int(default) if isinstance(default, float) and default.is_integer() else default)}`"


def _meaning(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return str(resolved(part, schema).get("description", "")).replace("->", "→")


# The INI

# Options that `ini_file` does not read one by one.
_LISTS = {
    "keyfields": ("table.keyfields", "`name` or `name:type`, separated by commas; VARCHAR(255) without a type"),
    "<name of a keyfield>": ("table.keyfields.<name>.values", "values separated by commas; ranges include both ends"),
    "resultfields": ("table.resultfields", "as `keyfields`"),
    "logtables": (
        "logtables",
        "`name:type` or `name:option`, separated by commas; the option lists columns as `keyfields` does",
    ),
}


def ini_reference() -> str:
    """Return the page of all options of INI files, with the key of the YAML that each corresponds to."""
    lines = [
        "# Options of INI files",
        "",
        "Generated from the code that reads INI files. [INI files](../configuration.md#ini-files) shows an example.",
        "",
        *_section("PY_EXPERIMENTER", "option", "key of the YAML", "form"),
        *(_row(f"`{option}`", f"`{'.'.join(path[1:])}`", "") for option, path in ini_file._OPTIONS.items()),
        *(_row(f"`{option}`", f"`Database.{key}`", form) for option, (key, form) in _LISTS.items()),
        "",
        *_section("CUSTOM", "option", "key of the YAML"),
        _row("any", "the same in `Custom`, as a text"),
        "",
        *_section("analysis", "option", "key of the YAML"),
        *(_row(f"`{option}`", f"`{'.'.join(path[1:])}`") for option, path in ini_file._ANALYSIS.items()),
        "",
        *_section("codecarbon", "option", "key of the YAML"),
        _row("any", "the same in `CodeCarbon`"),
        "",
        *_section("CREDENTIALS", "option", "key of the YAML of credentials"),
        *(_row(f"`{option}`", f"`{'.'.join(path[1:])}`") for option, path in ini_file._CREDENTIALS.items()),
    ]
    return "\n".join(lines) + "\n"


def _section(name: str, *columns: str) -> list[str]:
    return [f"## [{name}]".replace("[", "\\["), "", _row(*columns), _row(*("---" for _ in columns))]
