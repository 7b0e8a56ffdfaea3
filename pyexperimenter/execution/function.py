"""The user's function: loading it by its name, checking that it can be called and loaded elsewhere, its tracebacks."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pyexperimenter.exceptions import ExperimentFunctionError, FunctionNotPicklableError
from pyexperimenter.execution.pickling import dumps, unpicklable_part
from pyexperimenter.jsonable import shown
from pyexperimenter.paths import absolute_path

_LONGEST_TRACEBACK = 1_000_000  # characters


def load_function(name: str) -> Callable[..., Any]:
    """Import an experiment function.

    Parameters
    ----------
    name : str
        ``module:function``, where the module is searched for in the working directory first; or ``file.py:function``.

    Raises
    ------
    ExperimentFunctionError
        If the module or the function does not exist, or the module cannot be imported; the message says why.
    """
    from pyexperimenter.config.names import module_and_function

    try:
        module_name, function_name = module_and_function(name)
    except ValueError as error:
        raise ExperimentFunctionError(str(error)) from None
    if "/" in module_name and not module_name.endswith(".py"):
        raise ExperimentFunctionError(f"{module_name} is not a module; write {module_name}.py:{function_name}")
    module = (
        _from_file(Path(module_name), function_name)
        if module_name.endswith(".py")
        else _import(module_name, os.getcwd())
    )
    function: Any = module
    for part in function_name.split("."):
        if not hasattr(function, part):
            raise ExperimentFunctionError(f"{_place(module)} has no {function_name!r}{_alternatives(module, part)}")
        function = getattr(function, part)
    if not callable(function):
        raise ExperimentFunctionError(
            f"{function_name} in {_place(module)} is of type {type(function).__name__}, not a function"
        )
    return function  # type: ignore[no-any-return]


def check_function(
    function: Any, parameters: Sequence[str] = ("keyfields", "result_processor", "custom_fields")
) -> None:
    """Check that a function can be called with so many arguments, and that calling it executes it.

    Raises
    ------
    ExperimentFunctionError
        If not; the message says how to write it.
    """
    name = str(getattr(function, "__name__", type(function).__name__))
    form = f"def {name if name.isidentifier() else 'function'}({', '.join(parameters)})"
    if not callable(function):
        remedy = "import it, and pass it without quotes" if isinstance(function, str) else "pass it without calling it"
        raise ExperimentFunctionError(f"{shown(function)} is not a function; {remedy}")
    for called in (function, type(function).__call__):  # an object may be a function, too
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise ExperimentFunctionError(
                f"{name} is an async function, whose call executes nothing; write {form}, with asyncio.run(...) in it"
            )
        if inspect.isgeneratorfunction(called):
            raise ExperimentFunctionError(
                f"{name} contains yield, so that its call executes nothing; write {form}, and return a mapping of "
                "results or pass them to result_processor.process_results"
            )
    if hasattr(type(function), "cache_info"):
        raise ExperimentFunctionError(
            f"{name} has a cache of functools, which needs arguments that are hashable; remove the decorator"
        )
    try:
        # What it wraps, if it is a decorator's, may take other arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return  # some built-in functions have none
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise ExperimentFunctionError(
            f"{name} cannot be called with {', '.join(parameters)}: {error}; write {form}"
        ) from None


def pickled(function: Callable[..., Any]) -> bytes:
    """Return a function in the form in which it is sent to another process.

    Raises
    ------
    FunctionNotPicklableError
        If it cannot be sent; the message names the remedy.
    """
    try:
        return dumps(function)
    except Exception as error:
        part = unpicklable_part(function)
        raise FunctionNotPicklableError(
            f"the experiment function cannot be sent to a worker's process because of {part or 'its values'}: "
            f"{type(error).__name__}: {error}; create it inside the function, or set isolation: none in the section "
            "Execution to run the function in this process"
        ) from error


def check_function_elsewhere(payload: bytes, path: Sequence[str]) -> None:
    """Check that a fresh process can load a pickled function.

    Raises
    ------
    ExperimentFunctionError
        If it cannot; the message says why.
    """
    code = "import sys, cloudpickle; sys.path[:] = sys.argv[1:]; cloudpickle.load(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", code, *path], input=payload, capture_output=True, check=False)
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ExperimentFunctionError(
            f"a worker could not load the function: {why}; put it into a module that all machines can import"
        )


def user_traceback(error: BaseException) -> str:
    """Format an exception raised in the user's function, without the frames of the library above it."""
    frames = error.__traceback__
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__")).startswith("pyexperimenter."):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    if len(text) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _from_file(path: Path, function_name: str) -> ModuleType:
    path = absolute_path(path)
    if not path.is_file():
        raise ExperimentFunctionError(f"the file {path} does not exist")
    if "." in path.stem:
        new = path.stem.replace(".", "_")
        raise ExperimentFunctionError(
            f"{path} cannot be imported, because a dot in the name of a module means a package; rename it to {new}.py"
        )
    try:
        module = _import(path.stem, str(path.parent))
    except ExperimentFunctionError as error:
        if "attempted relative import" not in str(error):
            raise
        root, name = _package(path)
        raise ExperimentFunctionError(
            f"{error}; in the directory {root}, write {name}:{function_name}"
        ) from error.__cause__
    found = getattr(module, "__file__", None)
    if found is None or not os.path.samefile(found, path):
        raise ExperimentFunctionError(
            f"{path} cannot be imported, as {found or 'a part of Python'} has the same module name; rename it"
        )
    return module


def _package(path: Path) -> tuple[Path, str]:
    """Return the directory from which a file is imported as a part of its package, and the module's name there."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if root == path.parent:  # a package without such files
        here = Path.cwd()
        root = here if here in root.parents else root.parent
    return root, ".".join(path.relative_to(root).with_suffix("").parts)


def _import(name: str, directory: str) -> ModuleType:
    """Import a module by its name, so that the workers' processes can also import it."""
    if directory not in sys.path:
        sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            searched = ", ".join(sys.path)
            raise ExperimentFunctionError(f"no module named {error.name!r} in {searched}") from error
        raise ExperimentFunctionError(f"{name} cannot be imported: {error}{_line(error, name)}") from error
    except (Exception, SystemExit) as error:
        raise ExperimentFunctionError(
            f"{name} cannot be imported: {type(error).__name__}: {error}{_line(error, name)}"
        ) from error


def _line(error: BaseException, name: str) -> str:
    """Return the last line of the traceback that is in the module of this name, as text for a message."""
    places, frames = [], error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_globals.get("__name__") == name:
            places.append(f" ({frames.tb_frame.f_code.co_filename}, line {frames.tb_lineno})")
        frames = frames.tb_next
    return places[-1] if places else ""


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _alternatives(module: ModuleType, name: str) -> str:
    from pyexperimenter.config.messages import nearest

    own = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
    return nearest(name, own) or (f"; its functions are {', '.join(own)}" if own else "")
