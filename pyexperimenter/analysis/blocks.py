"""The complete blocks of a study that is not finished: valid paired comparisons at any time."""

from __future__ import annotations

import pandas as pd

from pyexperimenter.analysis.cells import Names, cell_name, keyfields_of, levels, listed, some_of
from pyexperimenter.exceptions import InvalidColumnError, InvalidValueError


def complete_blocks(table: pd.DataFrame, blocks: Names = None) -> pd.DataFrame:
    """Return the experiments of the blocks in which all are done.

    Parameters
    ----------
    table : pandas.DataFrame
        Experiments, as returned by `get_table`. If you have dropped rows, a block is what is left of it.
    blocks : str or sequence of str, optional
        Keyfields whose combinations are the blocks, such as the data set and the seed; by default those of the
        design in the configuration.

    Returns
    -------
    pandas.DataFrame
        Its ``attrs`` have ``notes``, which say what was left out. `summarize` and `compare` print them, and by default
        average over all blocks that a cell has (``pairing="all"``).

    Raises
    ------
    InvalidColumnError
        If a name is not a keyfield.
    InvalidValueError
        If no blocks are given or declared.

    Notes
    -----
    What is complete first is not a random sample if blocks are executed in the order of the grid, or if the fast ones
    are finished first. The order of the design is random, unless ``shuffle: false``.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "ID": range(1, 5), "method": ["a", "b"] * 2, "seed": [0, 0, 1, 1],
    ...     "creation_date": pd.Timestamp("2026-01-01"), "status": ["done", "done", "done", "running"],
    ... })
    >>> complete = complete_blocks(table, "seed")
    >>> complete["seed"].tolist(), complete.attrs["notes"]
    ([0, 0], ['1 of 2 blocks is not complete and was left out: seed=1 (1 of 2 done)'])
    """
    names = listed(blocks) or listed(table.attrs.get("blocks"))
    if not names:
        raise InvalidValueError(
            "it is not known what the blocks are; name their keyfields, or add a design to the table's configuration, "
            "as in design: {blocks: [dataset, seed]}"
        )
    keyfields = keyfields_of(table)
    for name in names:
        if name not in keyfields:
            raise InvalidColumnError(f"blocks: {name!r} is not a keyfield; choose from {', '.join(keyfields)}")
    rows = table.reset_index(drop=True)
    numbers, labels = levels(rows, names)
    done = (rows["status"] == "done").groupby(numbers).agg(["sum", "size"])
    is_complete = done["sum"] == done["size"]
    left_out = [
        f"{cell_name(names, label)} ({n} of {planned} done)"
        for label, n, planned, complete in zip(labels, done["sum"], done["size"], is_complete, strict=True)
        if not complete
    ]
    result: pd.DataFrame = rows[numbers.map(is_complete).to_numpy()].reset_index(drop=True)
    result.attrs = {**table.attrs, "complete_blocks": True}
    if left_out:
        verb = "is not complete and was" if len(left_out) == 1 else "are not complete and were"
        note = f"{len(left_out)} of {len(labels)} blocks {verb} left out: {some_of(left_out, '; ')}"
        result.attrs["notes"] = [*table.attrs.get("notes", []), note]
    return result
