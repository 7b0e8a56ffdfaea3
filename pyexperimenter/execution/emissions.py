"""Measuring emissions with CodeCarbon (an extra). Its failures never affect an experiment."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from pyexperimenter.database.schema import CODECARBON_COLUMNS

# Fields of CodeCarbon's EmissionsData whose columns py-experimenter named differently.
_COLUMN_OF = {
    "timestamp": "codecarbon_timestamp",
    "duration": "duration_seconds",
    "emissions": "emissions_kg",
    "emissions_rate": "emissions_rate_kg_sec",
    **{f"{part}_power": f"{part}_power_watt" for part in ("cpu", "gpu", "ram")},
    **{f"{part}_energy": f"{part}_energy_kw" for part in ("cpu", "gpu", "ram")},
    "energy_consumed": "energy_consumed_kw",
    "pue": "power_usage_efficiency",
}
_NOWHERE = (46.8, -71.2)  # CodeCarbon's location when it cannot determine one, as only its log says
_TRUE = ("true", "yes", "on", "1")


class EmissionsMeter:
    """Measures one block of code, usually one experiment's function call.

    Exceptions of the block are not caught. If CodeCarbon is missing or fails, a warning is logged, once per cause.

    Parameters
    ----------
    options : Mapping
        The configuration's section CodeCarbon: arguments of CodeCarbon's tracker, and `offline_mode`. Files are
        written only if the options ask for them; ``.codecarbon.config`` and ``CODECARBON_...`` variables are ignored.
    logger : logging.Logger
        Logs the warnings.

    Attributes
    ----------
    measured : dict or None
        Column of the emissions table -> value, once the block has ended; None if nothing could be measured.
    """

    def __init__(self, options: Mapping[str, Any], logger: logging.Logger) -> None:
        self.measured: dict[str, Any] | None = None
        self._options = {name: value for name, value in options.items() if value is not None}
        self._offline = _boolean(self._options.pop("offline_mode", False))
        self._logger = logger
        self._tracker: Any = None

    def __enter__(self) -> EmissionsMeter:
        self.measured = None
        with self._contained():
            tracker = self._construct()
            try:
                _unsuppressed(type(tracker), "start")(tracker)
            except BaseException:
                tracker.stop()  # ends the threads that it has already started
                raise
            self._tracker = tracker
        return self

    def __exit__(self, *_: object) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with self._contained():
                _unsuppressed(type(tracker), "stop")(tracker)
                self.measured = self._columns(vars(tracker.final_emissions_data))

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Suppress all exceptions and warnings of CodeCarbon, except KeyboardInterrupt."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except ImportError as error:
            self._warn(
                f"emissions are not measured: {error}; to measure them, pip install 'pyexperimenter[codecarbon]'"
            )
        except (Exception, SystemExit) as error:
            cause = f"{type(error).__name__}: {error}"
            self._warn(f"emissions are not measured, as CodeCarbon failed: {cause}; check the section CodeCarbon")

    def _construct(self) -> Any:
        cls = _tracker_class(self._offline)
        arguments = self._arguments(cls)
        # Its own setting takes effect too late for messages of its constructor.
        level = arguments["log_level"]
        logging.getLogger("codecarbon").setLevel(level.upper() if isinstance(level, str) else level)
        tracker = cls.__new__(cls)
        _unsuppressed(cls, "__init__")(tracker, **arguments)
        return tracker

    def _arguments(self, cls: type) -> dict[str, Any]:
        types = _parameters(cls)
        # Without allow_multiple_runs, it would take a lock file and the handlers of SIGINT and SIGTERM.
        refused = [name for name in self._options if name not in types or name == "allow_multiple_runs"]
        arguments = {
            name: _converted(name, value, types[name]) for name, value in self._options.items() if name not in refused
        }
        if refused and not (refused == ["allow_multiple_runs"] and _boolean(self._options["allow_multiple_runs"])):
            names = ", ".join(refused)
            self._warn(f"CodeCarbon's options {names} are ignored: its {cls.__name__} cannot use them here")
        if self._offline and not arguments.keys() & {"country_iso_code", "cloud_provider"}:
            self._warn(
                "CodeCarbon does not know the country and uses the world's average emissions; "
                "set country_iso_code, for example DEU, in the section CodeCarbon"
            )
        methods = arguments.get("output_methods", [])
        if arguments.get("save_to_file") or "csv" in methods or "boamps" in methods:
            # Absolute: the experiment may change the working directory before the file is written.
            arguments["output_dir"] = os.path.abspath(arguments.get("output_dir", "."))
            os.makedirs(arguments["output_dir"], exist_ok=True)
        else:
            arguments.pop("output_dir", None)  # it would have to exist
            if not any(name.startswith("save_to_") for name in arguments):
                arguments.setdefault("output_methods", [])
            arguments["save_to_file"] = False
        arguments = {"log_level": "error", **arguments, "allow_multiple_runs": True}
        return {name: value for name, value in arguments.items() if name in types}

    def _columns(self, data: Mapping[str, Any]) -> dict[str, Any]:
        named = {_COLUMN_OF.get(name, name): value for name, value in data.items()}
        columns = {name: value for name, value in named.items() if name in CODECARBON_COLUMNS}
        if (data["latitude"], data["longitude"]) == _NOWHERE:
            self._warn(
                "CodeCarbon could not determine the country over the Internet and used Canada's low emissions; "
                "set offline_mode: true and country_iso_code, for example DEU, in the section CodeCarbon"
            )
        # Local time without a zone, as CodeCarbon gives it; the tables hold UTC.
        columns["codecarbon_timestamp"] = datetime.fromisoformat(data["timestamp"]).astimezone(timezone.utc)
        return {**columns, "offline_mode": self._offline}

    def _warn(self, message: str) -> None:
        _warn_once(self._logger, message)


@lru_cache(maxsize=64)
def _warn_once(logger: logging.Logger, message: str) -> None:
    """Log a warning only the first time: a worker has a meter for each of its many experiments."""
    logger.warning(message)


@lru_cache
def _tracker_class(offline: bool) -> Any:
    import codecarbon

    base: Any = codecarbon.OfflineEmissionsTracker if offline else codecarbon.EmissionsTracker
    # It completes the arguments from a file .codecarbon.config in the working or home directory, which
    # py-experimenter used to leave behind, and from the environment. Here it finds nothing there.
    found = property(lambda tracker: {}, lambda tracker, value: None)
    return type(base.__name__, (base,), {"_external_conf": found})


def _unsuppressed(cls: type, method: str) -> Any:
    """Return a method of CodeCarbon without the decorator that hides failures, which become zeros in the data."""
    return inspect.unwrap(getattr(cls, method))


@lru_cache
def _parameters(cls: type) -> dict[str, str]:
    """Return the keyword arguments that a tracker and its base classes accept, each with its annotation as text."""
    return {
        parameter.name: str(parameter.annotation)
        for base in reversed(cls.__mro__[:-1])
        for parameter in inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and parameter.name != "self"
    }


def _converted(name: str, value: Any, annotation: str) -> Any:
    """Convert a value to the annotated type: INI files contain only text, and CodeCarbon does not check."""
    if "bool" in annotation:
        return _boolean(value)
    if "str" not in annotation and ("float" in annotation or "int" in annotation):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be a number, not {value!r}") from None
    return value


def _boolean(value: Any) -> bool:
    return str(value).strip().lower() in _TRUE
