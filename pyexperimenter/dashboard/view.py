"""What a page shows: a study, the experiments that the URL selects, and links that keep that selection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.experiment_status import ExperimentStatus
from pyexperimenter.fieldtypes import FieldType, Kind
from pyexperimenter.jsonable import jsonable

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

STATES = [status.value for status in ExperimentStatus if status is not ExperimentStatus.ALL]
_OF_COLUMN = "k."  # before the name of a column in the name of a parameter, so that it cannot be that of another one
_SELECTING = ("where", "state")
_PLACE = ("after", "before")  # in a list that is shown in pages


@dataclass(frozen=True)
class View:
    """One request for a page about a study.

    Attributes
    ----------
    study : PyExperimenter
        The study, for reading only.
    root : str
        Path of the dashboard.
    params : QueryParams
        Parameters of the URL.
    path : Mapping of str to str
        Parameters of the path.
    """

    study: PyExperimenter
    root: str
    params: QueryParams
    path: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def table(self) -> str:
        """Name of the study's table."""
        return self.study.config.table.name

    def quoted(self, name: str) -> str:
        """Return the name of a table or column as SQL takes it, whatever it is."""
        mark = "`" if self.study.config.database.provider == "mysql" else '"'
        return f"{mark}{name}{mark}"

    @cached_property
    def where_text(self) -> str:
        """The condition in SQL that the user has typed."""
        return self.params.get("where", "").strip()

    @cached_property
    def states(self) -> list[str]:
        """The states that are selected; none means all."""
        return [state for state in self.params.getlist("state") if state]

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """The values of columns that are selected."""
        columns = {name.removeprefix(_OF_COLUMN) for name in self.params if name.startswith(_OF_COLUMN)}
        return {name: [_value(text) for text in self.params.getlist(_OF_COLUMN + name)] for name in sorted(columns)}

    @cached_property
    def where(self) -> list[Mapping[str, Any] | str] | None:
        """What the URL selects, as the facade takes it."""
        parts: list[Mapping[str, Any] | str] = [self.where_text] if self.where_text else []
        return [*parts, self.values] if self.values else parts or None

    def of_all_states(self) -> View:
        """Return the view without the states that are selected, for a page on which they mean nothing."""
        kept = [(name, value) for name, value in self.params.multi_items() if name != "state"]
        return replace(self, params=QueryParams(kept))

    @property
    def selects(self) -> bool:
        """Whether the URL selects some experiments."""
        return bool(self.where or self.states)

    def one_of(self, name: str, choices: Sequence[str], default: str | None = None) -> str | None:
        """Return a parameter that has to be one of these.

        Raises
        ------
        InvalidValueError
            If it is another one.
        """
        given = self.params.get(name) or default
        if given is not None and given not in choices:
            raise InvalidValueError(f"{name}: {given!r} is not valid here; choose from {', '.join(choices) or 'none'}")
        return given

    def several_of(self, name: str, choices: Sequence[str]) -> list[str]:
        """Return the values of a parameter, each of which has to be one of these."""
        given = [value for value in self.params.getlist(name) if value]
        for value in given:
            if value not in choices:
                raise InvalidValueError(f"{name}: {value!r} is not valid here; choose from {', '.join(choices)}")
        return given

    def url(self, screen: str = "", **params: Any) -> str:
        """Return the address of a page of this study with only these parameters."""
        address = f"{self.root}/s/{quote(self.table, safe='')}/{screen}"
        given = [(name, one) for name, value in params.items() for one in _listed(value)]
        return f"{address}?{urlencode(given)}" if given else address

    def selecting(self, screen: str, add: Mapping[str, Any] | None = None, **params: Any) -> str:
        """Return the address of a page about the selected experiments, or those of them with these values."""
        kept = {name: self.params.getlist(name) for name in self.params if self._selects(name)}
        kept |= {name: [text] for name, text in of_columns(add or {}).items()}
        return self.url(screen, **{**kept, **params})

    def changing(self, screen: str, **params: Any) -> str:
        """Return the address of a page with the parameters of this one, and these changed; None removes one."""
        kept = {name: self.params.getlist(name) for name in self.params if name not in (*_PLACE, *params)}
        return self.url(screen, **{**kept, **params})

    def hidden(self, *others: str) -> list[tuple[str, str]]:
        """Return the parameters that select, and these others, for the hidden fields of a form."""
        return [(name, value) for name, value in self.params.multi_items() if self._selects(name) or name in others]

    @staticmethod
    def _selects(name: str) -> bool:
        return name in _SELECTING or name.startswith(_OF_COLUMN)


def selectable(fields: Mapping[str, FieldType]) -> list[str]:
    """Return the names of fields that can be selected by values: all but JSON."""
    return [name for name, field in fields.items() if field.kind is not Kind.JSON]


def of_columns(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that select experiments with these values.

    >>> of_columns({"kernel": "rbf"})
    {'k.kernel': '"rbf"'}
    """
    return {_OF_COLUMN + name: text_of(value) for name, value in values.items()}


def text_of(value: Any) -> str:
    """Return a value as the text of a parameter, from which the same value is read.

    >>> text_of("rbf"), text_of(0.1), text_of(None)
    ('"rbf"', '0.1', 'null')
    """
    return json.dumps(jsonable(value), ensure_ascii=False)


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text  # written by hand, without quotes
    return text if isinstance(value, (dict, list)) else value


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
