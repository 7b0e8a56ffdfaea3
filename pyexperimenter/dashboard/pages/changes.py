"""Changes of the selected experiments, which are counted and confirmed first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyexperimenter.dashboard.view import View
from pyexperimenter.exceptions import InvalidValueError

if TYPE_CHECKING:
    from pyexperimenter.experimenter import PyExperimenter

_MOST = 100_000  # experiments at a time
_ENDS = {
    "reset": "They will be open again, and lose their results and errors. Their attempts and logs are kept.",
    "release": "Running ones will be open again. A worker that is still executing one is stopped.",
    "remove": "They will be deleted, with their attempts and logs.",
    "prune": "Those that are not in the grid of the config will be deleted, with their attempts and logs: "
    "only open ones, unless states are selected.",
}


def change(view: View, experimenter: PyExperimenter, form: Mapping[str, Sequence[str]]) -> dict[str, Any] | str:
    """Return what has to be confirmed, or where to go after it was done."""
    action = form.get("action", [""])[-1]
    if action not in _ENDS:
        raise InvalidValueError(f"{action!r} is not a change; choose from {', '.join(_ENDS)}")
    act = _act(view, experimenter, action)
    if form.get("confirm") == ["yes"]:
        number = act(False)
        experimenter.logger.warning("dashboard: %s of %d experiments", action, number)
        return view.url("experiments")
    return {"action": action, "number": act(True), "consequence": _ENDS[action]}


def _act(view: View, experimenter: PyExperimenter, action: str) -> Callable[[bool], int]:
    states = view.states or None
    if action == "prune" and view.where is None:
        return lambda dry_run: experimenter.prune(states or "created", dry_run)
    # A condition in SQL, which comes from the URL, is only ever asked where nothing can be written.
    ids = view.study.get_table(view.where, ["ID"], limit=_MOST + 1, states=states)["ID"].tolist()
    if len(ids) > _MOST:
        raise InvalidValueError(f"more than {_MOST:,} experiments are selected; select fewer, or use the command line")
    if action == "reset":
        chosen = states or ["done", "error", "paused"]
        return lambda dry_run: experimenter.reset_experiments(*chosen, ids=ids, dry_run=dry_run)
    if action == "prune":
        return lambda dry_run: experimenter.prune(states or "created", dry_run, ids)
    if action == "release":
        return lambda dry_run: experimenter.release_experiments(ids=ids, dry_run=dry_run)
    return lambda dry_run: experimenter.remove_experiments(ids=ids, states=states, dry_run=dry_run)
