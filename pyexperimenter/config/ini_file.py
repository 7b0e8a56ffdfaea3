"""INI files of py-experimenter 1.0 to 1.3, read into the same plain data as YAML, with the line of each key.

Values are comma-separated strings, which are converted later to the declared types. As in py-experimenter,
``%(option)s`` is replaced by another option of the section, and ``%%`` is a percent sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyexperimenter.config.messages import KeyPath, nearest
from pyexperimenter.config.source import FileProblem, Lines
from pyexperimenter.exceptions import (
    DuplicateKeyError,
    InvalidConfigError,
    InvalidRangeError,
    InvalidValuesInConfiguration,
    MissingKeyError,
    MissingLogTableError,
    UnknownKeyError,
)
from pyexperimenter.fieldtypes import BOOLEAN_WORDS, FieldType, Kind
from pyexperimenter.grid import stepped

_SECTION = re.compile(r"\[([^\]]+)\]")
_OPTION = re.compile(r"([^=:]*?)\s*[=:]\s*(.*)")
_COMMENT = re.compile(r"(?:^|[^\S\n]+)[#;].*", re.M)
_REFERENCE = re.compile(r"%%|%\(([^)]*)\)s")
_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_RANGE = re.compile(f"{_NUMBER}:{_NUMBER}(?::{_NUMBER})?")

_LONGEST_LIST = 1_000_000
_LONGEST_TEXT = 1_000_000

_PYTHON_TYPES = {"int": "INT", "float": "FLOAT", "str": "VARCHAR(255)", "bool": "BOOL"}
_DEFAULT_TYPE = "VARCHAR(255)"

_ROOT = "PY_EXPERIMENTER"
_DATABASE: KeyPath = (_ROOT, "Database")
_TABLE: KeyPath = (*_DATABASE, "table")
# Option -> its path in the YAML. All others are lists of columns, values of a keyfield or columns of a logtable.
_OPTIONS: dict[str, KeyPath] = {
    "provider": (*_DATABASE, "provider"),
    "database": (*_DATABASE, "database"),
    "table": (*_TABLE, "name"),
    "resultfields.timestamps": (*_TABLE, "result_timestamps"),
    "use_ssh_tunnel": (*_DATABASE, "use_ssh_tunnel"),
    "use_ssh": (*_DATABASE, "use_ssh"),
    "n_jobs": (_ROOT, "n_jobs"),
    "cpu.max": (_ROOT, "n_jobs"),
}
_LISTS = ("keyfields", "resultfields", "logtables")
_ANALYSIS: dict[str, KeyPath] = {
    "unit": (_ROOT, "Analysis", "unit"),
    "resampling.test": (_ROOT, "Analysis", "resampling", "test"),
}
_CREDENTIALS: dict[str, KeyPath] = {
    "user": ("CREDENTIALS", "Database", "user"),
    "password": ("CREDENTIALS", "Database", "password"),
    "password_command": ("CREDENTIALS", "Database", "password_command"),
    "host": ("CREDENTIALS", "Connection", "Standard", "server"),
    "port": ("CREDENTIALS", "Connection", "Standard", "port"),
    "unix_socket": ("CREDENTIALS", "Connection", "Standard", "unix_socket"),
}


@dataclass
class _Option:
    name: str
    text: str  # one line, or several
    line: int

    @property
    def value(self) -> str:
        return self.text.replace("\n", " ").strip()

    @property
    def without_comments(self) -> str:
        """The value, where it cannot contain a # or ; after a space. In py-experimenter, these were errors there."""
        return _COMMENT.sub("", self.text).replace("\n", " ").strip()


_Options = dict[str, _Option]  # by the option's name in lower case


@dataclass
class _Section:
    name: str
    line: int
    options: _Options


def read(text: str) -> tuple[dict[str, Any], Lines, list[InvalidConfigError]]:
    """Parse a configuration.

    Returns
    -------
    data : dict
        The same as in YAML.
    lines : Lines
        The line of each key.
    warnings : list of InvalidConfigError
        What is hardly meant, such as what nothing uses, but was accepted by py-experimenter, too.

    Raises
    ------
    FileProblem
        If it is not INI, or if an option appears twice or needs another one that is missing.
    """
    result = _Result()
    sections = _sections(text)
    if not any(section.name.lower() == _ROOT.lower() for section in sections):
        raise FileProblem(f"the section [{_ROOT}] is missing; start with it", 1, kind=MissingKeyError)
    for section in sections:
        kind = section.name.lower()
        if kind == "py_experimenter":
            result.section((_ROOT,), section.line)
            _read_experiment(section.options, result)
        elif kind == "custom":
            for option in section.options.values():
                result.set((_ROOT, "Custom", option.name), option.value, option.line)
        elif kind == "codecarbon":
            result.section((_ROOT, "CodeCarbon"), section.line)
            for option in section.options.values():
                result.set((_ROOT, "CodeCarbon", option.name), _scalar(option.value), option.line)
        elif kind == "analysis":
            result.section((_ROOT, "Analysis"), section.line)
            for key, option in section.options.items():
                if key not in _ANALYSIS:
                    text = f"unknown option{nearest(key, _ANALYSIS)} (choose from {', '.join(_ANALYSIS)})"
                    raise FileProblem(text, option.line, kind=UnknownKeyError, path=(_ROOT, "Analysis", option.name))
                result.set(_ANALYSIS[key], _split(option.value) if key == "unit" else option.value, option.line)
        else:
            hint = nearest(section.name, (_ROOT, "CUSTOM", "analysis", "codecarbon"))
            result.ignore((section.name,), f"unknown section{hint}", section.line)
    return result.data, result.lines, result.warnings


def read_credentials(text: str) -> tuple[dict[str, Any], Lines]:
    """Parse a credential file: ``[CREDENTIALS]`` with host, user, password and optionally more.

    Raises
    ------
    FileProblem
        If it is not INI, or if an option is unknown or appears twice.
    """
    result = _Result()
    for section in _sections(text):
        if section.name.lower() != "credentials":
            raise FileProblem("unknown section; put everything in [CREDENTIALS]", section.line, kind=UnknownKeyError)
        result.section(("CREDENTIALS",), section.line)
        for key, option in section.options.items():
            if key not in _CREDENTIALS:
                # The message does not quote the option, since it may be a misplaced password.
                hint = nearest(key, _CREDENTIALS)
                text = f"unknown option{hint} (choose from {', '.join(_CREDENTIALS)})"
                raise FileProblem(text, option.line, kind=UnknownKeyError)
            result.set(_CREDENTIALS[key], option.value, option.line)
    return result.data, result.lines


class _Result:
    """The plain data read so far."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.lines = Lines()
        self.warnings: list[InvalidConfigError] = []

    def ignore(self, path: KeyPath, why: str, line: int) -> None:
        """Note that nothing uses what is here."""
        self.warnings.append(UnknownKeyError(f"ignored: {why}", path))
        self.lines[path] = line

    def section(self, path: KeyPath, line: int) -> None:
        """Add a section, unless it exists."""
        self._at(path)
        self.lines[path] = line

    def set(self, path: KeyPath, value: Any, line: int) -> None:
        """Set a value that is not set yet, adding the sections around it."""
        section = self._at(path[:-1])
        if path[-1] in section:
            raise FileProblem("this appears twice; delete one", line, kind=DuplicateKeyError, path=path)
        section[path[-1]] = value
        self.lines[path] = line

    def _at(self, path: KeyPath) -> Any:
        section: Any = self.data
        for key in path:
            section = section.setdefault(key, {})
        return section


# The section [PY_EXPERIMENTER]


def _read_experiment(section: _Options, result: _Result) -> None:
    read = set(_OPTIONS) | set(_LISTS)
    for name, path in _OPTIONS.items():
        if name in section:
            option = section[name]
            result.set(path, option.value if name == "database" else option.without_comments, option.line)
    if "keyfields" in section:
        read |= set(_read_keyfields(section, result))
    if "resultfields" in section:
        option = section["resultfields"]
        result.set((*_TABLE, "resultfields"), dict(_columns(option, (*_TABLE, "resultfields"))), option.line)
    if "logtables" in section:
        read |= set(_read_logtables(section, result))
    for key, option in section.items():
        if key not in read:
            known = [*_OPTIONS, *_LISTS, *read]
            why = f"it is neither an option nor a keyfield nor the columns of a logtable{nearest(option.name, known)}"
            result.ignore((_ROOT, option.name), why, option.line)


def _read_keyfields(section: _Options, result: _Result) -> Iterator[str]:
    """Set the keyfields; yield the names of the options that hold their values."""
    option = section["keyfields"]
    path = (*_TABLE, "keyfields")
    result.section(path, option.line)
    for name, declaration in _columns(option, path):
        result.set((*path, name), {"type": declaration}, option.line)
        values = section.get(name.lower())
        if values is not None and name.lower() not in _OPTIONS:
            if _is_text(declaration) and (comment := _COMMENT.search(values.text)):
                text = f"{comment[0].strip()!r} is part of the value; put comments on lines of their own"
                result.warnings.append(InvalidValuesInConfiguration(text, (*path, name, "values")))
            result.set((*path, name, "values"), _values(declaration, values, (*path, name, "values")), values.line)
            yield name.lower()


def _read_logtables(section: _Options, result: _Result) -> Iterator[str]:
    """Set the logtables; yield the names of the options that hold their columns."""
    option = section["logtables"]
    path = (*_DATABASE, "logtables")
    for entry in _split(option.without_comments):
        name, colon, columns = (part.strip() for part in entry.partition(":"))
        if columns.lower() in section:
            of_columns = section[columns.lower()]
            result.set((*path, name), dict(_columns(of_columns, (*path, name))), of_columns.line)
            yield columns.lower()
        elif _field_type(columns) is not None:
            result.set((*path, name), {name: _sql_type(columns)}, option.line)
        else:
            missing = f"the line '{columns} = ...' is missing" if colon else "its columns are missing"
            raise FileProblem(
                f"{missing}; write {name}:<SQL type>, or {name}:<name> and a line '<name> = column:type, ...'",
                option.line,
                kind=MissingLogTableError,
                path=(*path, name),
            )


def _columns(option: _Option, path: KeyPath) -> list[tuple[str, str]]:
    """Parse ``a, b:int, c:DECIMAL(10,2)`` into names and SQL types."""
    columns: dict[str, str] = {}
    for entry in _split(option.without_comments):
        name, colon, declaration = (part.strip() for part in entry.partition(":"))
        if name in columns:
            text = "this column appears twice; delete or rename one"
            raise FileProblem(text, option.line, kind=DuplicateKeyError, path=(*path, name))
        columns[name] = _sql_type(declaration) if colon else _DEFAULT_TYPE
    return list(columns.items())


def _split(text: str) -> list[str]:
    """Split at the commas outside of parentheses, and drop empty parts."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _sql_type(declaration: str) -> str:
    return _PYTHON_TYPES.get(declaration.lower(), declaration)


def _field_type(declaration: str) -> FieldType | None:
    try:
        return FieldType.parse(_sql_type(declaration))
    except ValueError:
        return None


def _is_text(declaration: str) -> bool:
    field = _field_type(declaration)
    return field is not None and field.kind in (Kind.TEXT, Kind.JSON)


def _values(declaration: str, option: _Option, path: KeyPath) -> Any:
    """Parse ``1, 2, 5:9`` into a list, and a single range into a range. Only numbers have ranges."""
    value = option.value if _is_text(declaration) else option.without_comments
    items = [item.strip() for item in value.split(",")]
    if len(items) > 1 and items[-1] == "":
        items.pop()
    field = _field_type(declaration)
    if field is None or field.kind is Kind.TEXT:
        return items
    words: dict[str, bool | None] = {"none": None}  # a placeholder, where only rows set the field
    if items == [""]:
        return [None]
    if field.kind is Kind.BOOLEAN:
        words |= BOOLEAN_WORDS
    if field.kind not in (Kind.INTEGER, Kind.REAL):
        return [words.get(item.lower(), item) for item in items]
    ranges = [_RANGE.fullmatch(item) for item in items]
    if len(items) == 1 and ranges[0] is not None:
        start, stop, step = ranges[0].groups(default="1")
        return {"start": start, "stop": stop, "step": step, "inclusive": True}
    values: list[Any] = []
    for item, match in zip(items, ranges, strict=True):
        values += (
            [words.get(item.lower(), item)]
            if match is None
            else _expanded(match.groups(default="1"), option.line, path)
        )
    return values


def _expanded(parts: Sequence[str], line: int, path: KeyPath) -> Sequence[Any]:
    """Return the numbers of a range in a list with other values."""
    whole = all(re.fullmatch(r"[-+]?\d+", part) for part in parts)
    try:
        start, stop, step = (int(part) if whole else float(part) for part in parts)
        values = stepped(start, stop, step, inclusive=True)
        if len(values) > _LONGEST_LIST:
            raise InvalidRangeError(f"the list has more than {_LONGEST_LIST} values; a range alone may have more")
        return values
    except (InvalidRangeError, ValueError) as error:  # Python limits the digits of integers
        raise FileProblem(str(error), line, kind=InvalidRangeError, path=path) from None


def _scalar(text: str) -> Any:
    """Parse true, false, none and numbers; leave everything else a string."""
    word = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if word is not text:
        return word
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


# The format itself


def _sections(text: str) -> list[_Section]:
    """Parse sections and options, and note their lines."""
    sections: list[_Section] = []
    option: _Option | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if raw[0].isspace() and option is not None:
            option.text += f"\n{line}"
        elif header := _SECTION.fullmatch(line):
            name, option = header[1].strip(), None
            if any(section.name.lower() == name.lower() for section in sections):
                raise FileProblem(f"the section [{name}] appears twice; merge them", number, kind=DuplicateKeyError)
            sections.append(_Section(name, number, {}))
        else:
            option = _option(line, number, sections[-1].options if sections else None)
    for section in sections:
        _resolve_references(section.options)
    return sections


def _option(line: str, number: int, section: _Options | None) -> _Option:
    match = _OPTION.fullmatch(line)
    if match is None or not match[1]:
        raise FileProblem("this is neither a [section] nor 'option = value' nor a # comment", number)
    if section is None:
        raise FileProblem(f"this is outside of any section; start with [{_ROOT}]", number)
    option = _Option(match[1].strip(), match[2].strip(), number)
    first = section.setdefault(option.name.lower(), option)
    if first is not option:
        text = f"the option appears twice, first on line {first.line}; delete one"
        raise FileProblem(text, number, kind=DuplicateKeyError, path=(option.name,))
    return option


def _resolve_references(section: _Options) -> None:
    inserted = 0

    def replacement(match: re.Match[str], option: _Option) -> str:
        nonlocal inserted
        if match[0] == "%%":
            return "%"
        if match[1].lower() not in section:
            raise FileProblem(f"{match[0]}: there is no such option in this section", option.line, path=(option.name,))
        value = section[match[1].lower()].text
        inserted += len(value)
        if inserted > _LONGEST_TEXT:  # options that refer twice to others double at each line
            text = f"the references insert more than {_LONGEST_TEXT} characters; refer to options without references"
            raise FileProblem(text, option.line, path=(option.name,))
        return value

    for option in section.values():
        option.text = _REFERENCE.sub(partial(replacement, option=option), option.text)
