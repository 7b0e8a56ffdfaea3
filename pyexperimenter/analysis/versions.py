"""Whether results come from different versions of the code, or from different environments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pyexperimenter.analysis.cells import as_text, cell_name, levels, some_of

VERSIONS = ("git_commit", "git_dirty", "git_diff_hash", "python", "library_version", "environment")
"""The columns of attempts that may differ."""
COLUMNS = ("ID", "experiment_id", "outcome", *VERSIONS)
"""The columns of attempts that are needed here."""

_NO_COMMIT = "an unknown git commit"


def mixed_versions(table: pd.DataFrame, keys: Sequence[str], attempts: pd.DataFrame | None) -> Iterator[str]:
    """Describe experiments that were run with different code or in different environments; unknown counts as different.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by `checked`. Only experiments that are done count.
    keys : sequence of str
        Columns whose values say which experiments have the rarer versions.
    attempts : pandas.DataFrame or None
        Executions, as returned by `get_attempts`; without them, nothing is known.

    Yields
    ------
    str
        One sentence for each kind of version that differs.
    """
    if attempts is None:
        return
    finished = attempts[attempts["outcome"] == "done"].sort_values("ID").drop_duplicates("experiment_id", keep="last")
    finished = finished.set_index("experiment_id")
    used = table[table["status"] == "done"]
    packages = finished.get("packages", pd.Series(dtype=object))
    for origin, versions in (
        ("code", commits_of(finished)),
        ("code", "library version " + finished["library_version"].map(as_text)),
        ("environments", "Python " + finished["python"].map(as_text)),
        ("environments", packages),
    ):
        recorded = used["ID"].map(versions).dropna()  # tables of py-experimenter have no attempts
        counts = recorded.value_counts()
        if len(counts) > 1:
            yield f"the results come from different {origin}: " + "; ".join(
                _version(used, keys, recorded, version, common=version == counts.index[0]) for version in counts.index
            )


def differing_packages(imported: Mapping[Any, Mapping[str, str]]) -> dict[Any, str]:
    """Return the packages of each environment that were imported in another version in some other environment.

    Parameters
    ----------
    imported : Mapping of str to Mapping
        Environment -> module -> version.

    Examples
    --------
    >>> differing_packages({"a": {"numpy": "1.26", "torch": "2.1"}, "b": {"numpy": "2.0", "torch": "2.1"}, "c": {}})
    {'a': 'numpy 1.26', 'b': 'numpy 2.0', 'c': 'no other packages'}
    """
    found: dict[str, set[str]] = {}
    for modules in imported.values():
        for name, version in modules.items():
            found.setdefault(name, set()).add(version)
    differing = [name for name, versions in found.items() if len(versions) > 1]
    if not differing:
        return {}
    return {
        environment: ", ".join(f"{name} {modules[name]}" for name in differing if name in modules)
        or "no other packages"
        for environment, modules in imported.items()
    }


def commits_of(attempts: pd.DataFrame) -> pd.Series[Any]:
    """Return which git commit each attempt ran, and whether with uncommitted changes."""
    commits = ("git commit " + attempts["git_commit"].astype("string").str[:10]).fillna(_NO_COMMIT)
    if "git_diff_hash" in attempts:  # older versions did not record it
        commits += ("+" + attempts["git_diff_hash"].astype("string")).fillna("")
    dirty = attempts["git_dirty"].eq(True).fillna(False).astype(bool)
    return commits + dirty.map({True: " with uncommitted changes", False: ""})


def _version(table: pd.DataFrame, keys: Sequence[str], recorded: pd.Series[Any], version: str, common: bool) -> str:
    of_it = table.loc[recorded.index[recorded == version]]
    cells = [] if common or not keys else levels(of_it, keys)[1]
    where = f", at {some_of((cell_name(keys, cell) for cell in cells), '; ')}" if cells else ""
    return f"{version} ({len(of_it)} experiment{'' if len(of_it) == 1 else 's'}{where})"
