"""Pickling the user's function for another process: what a script defines is sent by value, with its source."""

from __future__ import annotations

import functools
import io
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import cloudpickle

_CACHE = type(functools.lru_cache(len))


def dumps(value: object) -> bytes:
    """Pickle a value so that `pickle.loads` restores it in another process.

    More than cloudpickle does, it sends functions with `functools.cache`, `lru_cache` and `singledispatch` and cached
    properties of ``__main__``, and keeps the file names and source lines that tracebacks show. A function that imports
    ``__main__`` finds there what it finds here, except what cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    if not pickler.imports_main:
        return file.getvalue()
    file = io.BytesIO()
    _Pickler(file).dump(_WithMain(value, dict(_picklable(vars(sys.modules["__main__"])))))
    return file.getvalue()


def unpicklable_part(function: Callable[..., Any]) -> str | None:
    """Return which of the values that a function uses cannot be pickled, in words; None if none of them is to blame."""
    seen = set()

    def search(function: Any) -> str | None:
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or function in seen:
            return None
        seen.add(function)
        for name, value in _used_by(function):
            if not _can_be_pickled(value):
                return search(value) or f"{name} (of type {_kind(value)}), which {function.__name__} uses"
        return None

    return search(function)


def _used_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the global variables, variables of enclosing functions and defaults that a function uses."""
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name in code.co_names:
            if name in function.__globals__:
                yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is not assigned yet
            continue
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    yield from (("a default value", value) for value in defaults)


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _can_be_pickled(value: object) -> bool:
    try:
        _Pickler(io.BytesIO()).dump(value)
    except Exception:
        return False
    return True


def _picklable(variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(variables.items()):
        if not name.startswith("__") and _can_be_pickled(value):
            yield name, value


class _WithMain:
    """A value, and what its functions may look for in ``__main__``."""

    def __init__(self, value: object, main: Mapping[str, Any]) -> None:
        self._value = value
        self._main = main

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_main, (self._main, self._value)


def _restore_main(main: Mapping[str, Any], value: Any) -> Any:
    for name, variable in main.items():
        vars(sys.modules["__main__"]).setdefault(name, variable)
    return value


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.imports_main = False

    def reducer_override(self, value: Any) -> Any:
        """Return how to pickle a value; NotImplemented leaves it to pickle."""
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, functools.cached_property):
            return functools.cached_property, (value.func,), {"attrname": value.attrname}
        if isinstance(value, _CACHE) and not _is_importable(value):
            return _new_cache, (value.cache_parameters(),), (value.__wrapped__, vars(value)), None, None, _fill_in
        if _is_dispatching(value) and not _is_importable(value):
            state = value.__wrapped__, list(value.registry.items())
            return _new_dispatch, (value.__name__,), state, None, None, _register
        return super().reducer_override(value)

    def _code(self, code: CodeType) -> tuple[Any, ...]:
        """Keep file name and source, as the file may change while a study runs, or be a cell of a notebook."""
        self.imports_main |= "__main__" in code.co_names
        first, last = code.co_firstlineno, max(line or 0 for _, _, line in code.co_lines())
        lines = linecache.getlines(code.co_filename)[first - 1 : last]  # the rest of the file is not sent
        return _rebuild_code, (code.co_filename, lines, *self.dispatch_table[CodeType](code))


def _rebuild_code(filename: str, lines: list[str], rebuild: Callable[..., CodeType], arguments: Any) -> CodeType:
    code = rebuild(*arguments).replace(co_filename=filename)
    if lines:
        entry = linecache.cache.get(filename, ())
        known: list[str] = entry[2] if len(entry) == 4 and entry[1] is None else []
        start = code.co_firstlineno - 1
        known += ["\n"] * (start + len(lines) - len(known))
        known[start : start + len(lines)] = lines
        linecache.cache[filename] = (0, None, known, filename)
    return code


# Objects that refer to themselves, as a cached function that calls itself does, are made first and filled in later.


class _Later:
    """Stands for a function that is not there yet."""

    def __init__(self, name: str = "function") -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)  # type: ignore[attr-defined]


def _new_cache(parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(_Later())


def _fill_in(cached: Any, state: tuple[Any, Mapping[str, Any]]) -> None:
    function, attributes = state
    cached.__wrapped__.function = function
    vars(cached).update(attributes)


def _new_dispatch(name: str) -> Any:
    return functools.singledispatch(_Later(name))


def _register(dispatching: Any, state: tuple[Any, list[tuple[type, Any]]]) -> None:
    function, implementations = state
    functools.update_wrapper(dispatching, function)
    for kind, implementation in implementations:
        dispatching.register(kind, implementation)


def _is_dispatching(value: object) -> bool:
    """Return whether a value is a function with `functools.singledispatch`."""
    return isinstance(value, FunctionType) and {"registry", "dispatch", "register"} <= vars(value).keys()


def _is_importable(value: Any) -> bool:
    """Return whether another process finds the value under its own name."""
    if value.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value
