"""The part of the facade that analyzes: summaries, tests and figures of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pyexperimenter.database.selection import Where
from pyexperimenter.exceptions import InvalidValueError
from pyexperimenter.study.primary import label_of, settings_of, standing_of
from pyexperimenter.study.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from pyexperimenter.analysis import Anytime, Comparison

_MOMENT = 5.0  # seconds
_FEW = 20_000  # experiments of which it is faster to read the attempts by their IDs
_UNUSED = ("error",)  # columns that no summary, test or figure needs, and that may be long


class AnalyzedStudy(Study):
    """The methods that analyze the results of a study. They read, and write nothing."""

    _most_analyzed: int | None = None

    def select(
        self,
        by: str | Sequence[str],
        on: str,
        report: str | Sequence[str],
        better: str = "max",
        where: Where = None,
        failures: str = "error",
        optimistic: bool = False,
        only_grid: bool = False,
        complete_blocks: bool = False,
    ) -> pd.DataFrame:
        """Choose the best setting for each combination of `by`, as `pyexperimenter.analysis.select` does.

        Pass the result to `summarize`, `compare` or the figures of `pyexperimenter.analysis`.
        """
        choice = {"by": by, "on": on, "better": better, "failures": failures, "optimistic": optimistic}
        return self._selected(where, choice, report, only_grid, complete_blocks, unused=())

    def summarize(
        self,
        values: str | Sequence[str],
        rows: str | Sequence[str],
        columns: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = "seed",
        stat: str = "mean±std",
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> pd.DataFrame:
        """Summarize results cell by cell, with warnings about cells that are incomplete or mix versions of the code.

        Parameters, result and errors are those of `pyexperimenter.analysis.summarize`, and `where` and `only_grid` are
        those of `get_table`. With `complete_blocks`, only the blocks of the design count in which all experiments are
        done, see `pyexperimenter.analysis.complete_blocks`. With `select`, only the best settings count: options of the
        method of that name, such as ``{"by": ["dataset", "model", "seed"], "on": "cv_accuracy"}``. In `how`, this and
        the methods below take `unit`, `failures`, `pairing` and `test_share`, and the other options of the functions of
        their names.
        """
        from pyexperimenter.analysis import summarize

        table = self._selected(where, select, values, only_grid, complete_blocks)
        return summarize(table, values, rows, columns, over, stat, self._versions(table), **how)

    def compare(
        self,
        value: str,
        by: str,
        blocks: str | Sequence[str],
        better: str = "max",
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        test: str = "wilcoxon",
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Comparison:
        """Test whether the levels of a keyfield differ, as `pyexperimenter.analysis.compare` does.

        For `select`, see `summarize`. If the configuration declares a primary test, a note says whether it is this one,
        and all others are exploratory.
        """
        from pyexperimenter.analysis import compare
        from pyexperimenter.analysis.cells import listed

        table = self._selected(where, select, value, only_grid, complete_blocks)
        asked: dict[str, Any] = {
            "value": value,
            "by": by,
            "blocks": listed(blocks),
            "better": better,
            "test": test,
            **how,
        }
        asked |= {"over": listed(over), "where": where, "select": select}
        asked |= {"only_grid": only_grid, "complete_blocks": complete_blocks}
        label = label_of(self._store, self.config.analysis.primary, asked)
        table.attrs["notes"] = [*table.attrs.get("notes", []), *label]
        return compare(table, value, by, blocks, better, over, test, self._versions(table), **how)

    def interquartile_means(
        self,
        value: str,
        by: str | Sequence[str],
        tasks: str | Sequence[str],
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> pd.DataFrame:
        """Return the mean of the middle half of normalized scores of several tasks.

        As `pyexperimenter.analysis.interquartile_means` does; for `select`, see `summarize`.
        """
        from pyexperimenter.analysis import interquartile_means

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return interquartile_means(table, value, by, tasks, over, **how)

    def improvement_probabilities(
        self,
        value: str,
        by: str | Sequence[str],
        tasks: str | Sequence[str],
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> pd.DataFrame:
        """Return how likely a run of one level is better than one of another on the same task.

        As `pyexperimenter.analysis.improvement_probabilities` does; for `select`, see `summarize`.
        """
        from pyexperimenter.analysis import improvement_probabilities

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return improvement_probabilities(table, value, by, tasks, over, **how)

    def performance_profiles(
        self,
        value: str,
        by: str | Sequence[str],
        tasks: str | Sequence[str],
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> pd.DataFrame:
        """Return the shares of runs that are better than each threshold.

        As `pyexperimenter.analysis.performance_profiles` does; for `select`, see `summarize`.
        """
        from pyexperimenter.analysis import performance_profiles

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return performance_profiles(table, value, by, tasks, over, **how)

    def plot_profiles(
        self,
        value: str,
        by: str | Sequence[str],
        tasks: str | Sequence[str],
        over: str | Sequence[str] | None = "seed",
        ax: Axes | None = None,
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Axes:
        """Draw `performance_profiles`, as `pyexperimenter.analysis.plot_profiles` does."""
        from pyexperimenter.analysis import plot_profiles

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return plot_profiles(table, value, by, tasks, over, ax=ax, **how)

    def anytime(
        self,
        logtable_name: str,
        value: str,
        budget: str,
        by: str | Sequence[str],
        unit: str | Sequence[str] | None = None,
        better: str = "max",
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
    ) -> Anytime:
        """Prepare an analysis of logged values over a budget, as `pyexperimenter.analysis.anytime` does."""
        from pyexperimenter.analysis import anytime

        logs, table = self.get_logtable(logtable_name), self._selected(where, None, [], only_grid, complete_blocks)
        return anytime(logs, table, value, budget, by, unit, better, over)

    def pareto(
        self,
        objectives: Mapping[str, str],
        by: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = "seed",
        where: Where = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> pd.DataFrame:
        """Find the Pareto front of several objectives, as `pyexperimenter.analysis.pareto` does."""
        from pyexperimenter.analysis import pareto

        table = self._selected(where, None, [], only_grid, complete_blocks)
        return pareto(table, objectives, by, over, attempts=self._versions(table), **how)

    def primary_test(self) -> list[Comparison]:
        """Do the primary test of the study, which the section Analysis of the configuration declares.

        Returns
        -------
        list of Comparison
            One for each value, as `compare` returns it. Notes say whether the test was fixed before the first run. If
            there are several values, they also have the p-values adjusted by Holm's method for the number of values.

        Raises
        ------
        InvalidValueError
            If no primary test is declared, or as for `compare`.
        """
        from pyexperimenter.analysis.comparing import family

        primary = self.config.analysis.primary
        if primary is None:
            raise InvalidValueError(
                "the configuration declares no primary test; add one, as in "
                "Analysis: {primary: {value: accuracy, by: method, blocks: dataset}}"
            )
        return family([self.compare(**settings) for settings in settings_of(primary)])

    def plot_result(
        self,
        value: str,
        x: str,
        hue: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = "seed",
        stat: str = "mean±ci95",
        ax: Axes | None = None,
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Axes:
        """Draw a resultfield over a keyfield, as `pyexperimenter.analysis.plot_result` does.

        For `select`, see `summarize`.
        """
        from pyexperimenter.analysis import plot_result

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return plot_result(table, value, x, hue, over, stat, ax, self._versions(table), **how)

    def plot_heatmap(
        self,
        value: str,
        x: str,
        y: str,
        over: str | Sequence[str] | None = "seed",
        digits: int | str = 3,
        ax: Axes | None = None,
        where: Where = None,
        select: Mapping[str, Any] | None = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Axes:
        """Draw means over two keyfields, as `pyexperimenter.analysis.plot_heatmap` does.

        For `select`, see `summarize`.
        """
        from pyexperimenter.analysis import plot_heatmap

        table = self._selected(where, select, value, only_grid, complete_blocks)
        return plot_heatmap(table, value, x, y, over, digits, ax, self._versions(table), **how)

    def plot_pareto(
        self,
        objectives: Mapping[str, str],
        by: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = "seed",
        hue: str | Sequence[str] | None = None,
        ax: Axes | None = None,
        where: Where = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Axes:
        """Draw the Pareto front of two objectives, as `pyexperimenter.analysis.plot_pareto` does."""
        from pyexperimenter.analysis import plot_pareto

        table = self._selected(where, None, [], only_grid, complete_blocks)
        return plot_pareto(table, objectives, by, over, hue, ax, attempts=self._versions(table), **how)

    def plot_curves(
        self,
        logtable_name: str,
        value: str,
        index: str,
        hue: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = "seed",
        ax: Axes | None = None,
        where: Where = None,
        only_grid: bool = False,
        complete_blocks: bool = False,
        **how: Any,
    ) -> Axes:
        """Draw what experiments logged, as `pyexperimenter.analysis.plot_curves` does."""
        from pyexperimenter.analysis import plot_curves

        logs, table = self.get_logtable(logtable_name), self._selected(where, None, [], only_grid, complete_blocks)
        return plot_curves(logs, table, value, index, hue, over, ax, self._versions(table), **how)

    def plot_progress(self, ax: Axes | None = None, where: Where = None, only_grid: bool = False) -> Axes:
        """Draw the number of finished experiments over time, as `pyexperimenter.analysis.plot_progress` does."""
        from pyexperimenter.analysis import plot_progress

        return plot_progress(self.get_table(where, only_grid=only_grid), ax)

    def _selected(
        self,
        where: Where,
        choice: Mapping[str, Any] | None,
        report: str | Sequence[str],
        only_grid: bool,
        only_complete: bool,
        unused: Sequence[str] = _UNUSED,
    ) -> pd.DataFrame:
        from pyexperimenter.analysis import complete_blocks, select

        most = self._most_analyzed
        columns = [name for name in self._store.table_rows(limit=0)[0] if name not in unused]
        limit = None if most is None else most + 1
        # A page of the dashboard asks for several things of the same experiments.
        read = partial(self.get_table, where, columns, only_grid=only_grid, limit=limit)
        table = self._store.remembered("experiments", _MOMENT, read, (where, columns, only_grid))
        if most is not None and len(table) > most:
            raise InvalidValueError(
                f"more than {most:,} experiments are selected; select fewer, or use the command line"
            )
        table = complete_blocks(table) if only_complete else table
        return table if choice is None else select(table, report=report, **choice)

    def _versions(self, table: pd.DataFrame) -> pd.DataFrame | None:
        """Return which code the executions of these experiments ran, or all, if these are many; None if the same."""
        from pyexperimenter.analysis.versions import COLUMNS, VERSIONS, differing_packages

        ids = table["ID"].tolist() if len(table) <= _FEW else None
        if not self._store.attempts_differ(ids, VERSIONS):
            return None
        versions = self._frame(partial(self._store.attempt_rows, ids, columns=COLUMNS), self._store.schema.attempts)
        if "environment" in versions and versions["environment"].nunique() > 1:
            imported = self.get_environments().set_index("environment")["imported"].to_dict()
            versions["packages"] = versions["environment"].map(differing_packages(imported))
        return versions

    def appendix(self, format: str = "markdown") -> str:
        """Return a paragraph and a table for the appendix of a paper, which say how the results came about.

        They have the grid and its blocks, how many executions failed, were repeated or lost, when and on which machines
        they ran, what they took, the versions of the code and of the packages that were imported, how the number of
        seeds was chosen, and the primary test.

        Parameters
        ----------
        format : {"markdown", "latex"}
            The format.

        Raises
        ------
        InvalidValueError
            If the format is unknown.
        """
        from pyexperimenter.analysis.appendix import COLUMNS, appendix

        notes, primary = self._remarks(), self.config.analysis.primary
        if primary is not None:
            what = f"{primary.test} of {', '.join(primary.value)} by {primary.by}, blocks {', '.join(primary.blocks)}"
            notes.append(f"{standing_of(self._store, primary)}: {what}, correction {primary.correction}")
        energy = None if self._codecarbon is None else self._store.emissions()
        return appendix(
            self.config.table,
            self.counts(),
            self.get_attempts(columns=COLUMNS),
            self.get_environments(),
            energy if energy and energy[1] else None,
            notes,
            format,
        )
