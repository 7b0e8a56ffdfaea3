"""What py-experimenter had and this library has not: the errors name the replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_SQL = "run SQL with execute_custom_query(sql), or read with get_table(where=...)"
_IN_CONFIG = "read experimenter.config, such as config.table.name; to change settings, pass the configuration as a dict"
OF_EXPERIMENTER = {
    "dbconnector": _SQL,
    **dict.fromkeys(["get_config_value", "set_config_value", "has_option", "has_section"], _IN_CONFIG),
    "codecarbon_config": "read config.codecarbon",
    "timestamp_on_result_fields": "read config.table.result_timestamps",
    "experiment_configuration_file_path": "read config.source",
}
OF_CONNECTOR = {
    **dict.fromkeys(
        ["get_table", "get_logtable", "get_codecarbon_table", "delete_table", "reset_experiments"],
        "call the experimenter's method of this name",
    ),
    **dict.fromkeys(["update_database", "execute_queries", "prepare_write_query", "get_structure_from_table"], _SQL),
    "fill_table": "call fill_table_with_rows(rows)",
    "add_experiment": "call add_experiment_and_execute(keyfield_values, function)",
    "create_table_if_not_existing": "call create_table()",
    "get_experiment_configuration": "call execute(function, max_experiments=1)",
    "table_name": "read experimenter.config.table.name",
    "database_name": "read experimenter.config.database.database",
}
OF_CONFIG = {
    **dict.fromkeys(["get", "getint", "getfloat", "getboolean", "has_option", "has_section", "sections"], _IN_CONFIG),
    "custom_configuration": "read config.custom",
    "codecarbon_configuration": "read config.codecarbon",
}


def no_attribute(owner: object, name: str, gone: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that an object does not have."""
    message = f"{type(owner).__name__!r} object has no attribute {name!r}"
    advice = f", which py-experimenter had; {gone[name]}" if name in gone else ""
    return AttributeError(f"{message}{advice}", name=name, obj=owner)


def advising(advice: str = "", **renamed: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function called with wrong arguments say what to do instead.

    Parameters
    ----------
    advice : str
        What to do instead.
    **renamed
        Old name of an argument -> what it is now.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                hints = [f"{old} is now {new}" for old, new in renamed.items() if old in kwargs]
                if (hints or advice) and not _takes(function, args, kwargs):
                    raise TypeError("; ".join([str(error), *(hints or [advice])])) from None
                raise

        return call

    return decorate


def _takes(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    try:
        signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True
