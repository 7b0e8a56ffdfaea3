"""Tables joined: the keyfields of its experiment to each row of a side table, and the tables of several studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pandas as pd

from pyexperimenter.analysis.cells import keyfields_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError

_STUDY = "study"


class StudyLike(Protocol):
    """A study, such as a `PyExperimenter`."""

    def get_table(self) -> pd.DataFrame:
        """Return its experiments."""


def join_keyfields(side_table: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Insert the keyfields of its experiment into each row of a side table, after ``experiment_id``.

    Parameters
    ----------
    side_table : pandas.DataFrame
        Logs or attempts, with a column ``experiment_id``.
    table : pandas.DataFrame
        Experiments, as returned by `get_table`. Rows of other experiments are left out.

    Returns
    -------
    pandas.DataFrame
        Columns of the side table with the name of a keyfield get the suffix ``_logged``.
    """
    keyfields = table[["ID", *keyfields_of(table)]].rename(columns={"ID": "experiment_id"})
    joined = side_table.merge(keyfields, on="experiment_id", suffixes=("_logged", ""))
    first = [name for name in ("ID", "experiment_id") if name in joined] + list(keyfields.columns[1:])
    return joined[first + [name for name in joined.columns if name not in first]]


def concat_studies(studies: Mapping[str, StudyLike | pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of several studies, for example of two methods, to summarize and compare them together.

    Parameters
    ----------
    studies : Mapping of str to PyExperimenter or pandas.DataFrame
        Each study by the name that it should have, or a part of its table as returned by `get_table`.

    Returns
    -------
    pandas.DataFrame
        All rows, one study after the other. The name is in the column ``study``, which is a keyfield like others. Then
        come the keyfields of all studies, and the other columns. What a study does not have is missing. Its ``attrs``
        have what all studies declare in the section Analysis.

    Raises
    ------
    InvalidColumnError
        If a study has a column ``study``, or a keyfield of one is another column of another study.
    InvalidValueError
        If `studies` is empty.

    Examples
    --------
    >>> def table(**more):
    ...     return pd.DataFrame({"ID": [1, 2], **more, "creation_date": pd.Timestamp("2026-01-01"), "status": "done"})
    >>> both = concat_studies({"old": table(seed=[0, 1]), "new": table(seed=[0, 1], depth=[3, 4])})
    >>> print(both.drop(columns="creation_date").to_string(index=False))
     ID study  seed  depth status
      1   old     0    NaN   done
      2   old     1    NaN   done
      1   new     0    3.0   done
      2   new     1    4.0   done
    """
    tables = {name: study if isinstance(study, pd.DataFrame) else study.get_table() for name, study in studies.items()}
    if not tables:
        raise InvalidValueError("studies: there are none; give at least one, as in {'old': experimenter}")
    keyfields = list(dict.fromkeys(name for table in tables.values() for name in keyfields_of(table)))
    for study, table in tables.items():
        for name in table.columns:
            if name == _STUDY:
                raise InvalidColumnError(f"{study} has a column {_STUDY!r} of its own; rename it in its table first")
            if name in keyfields and name not in keyfields_of(table):
                raise InvalidColumnError(f"{name!r} is a keyfield, but not in {study}; rename it in its table first")
    columns = ["ID", _STUDY, *keyfields, *(name for table in tables.values() for name in table.columns)]
    # pandas is about to change what the dtype becomes where all values of a table are missing, so these are left out.
    present = [table.dropna(axis="columns", how="all").assign(**{_STUDY: name}) for name, table in tables.items()]
    joined = pd.concat(present, ignore_index=True).reindex(columns=list(dict.fromkeys(columns)))
    joined.attrs = _shared([table.attrs for table in tables.values()]) | {"uneven": True}
    return joined


def _shared(attrs: list[dict[Any, Any]]) -> dict[Any, Any]:
    return {name: setting for name, setting in attrs[0].items() if all(more.get(name) == setting for more in attrs)}
