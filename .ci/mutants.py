"""Change the core modules in small ways, one at a time, and see whether the tests notice; see `docs/testing.md`.

The mutants are those of cosmic-ray, with operators of our own for SQL and for statements that are removed. All is done
in a copy of the repository, so that work goes on meanwhile. The results are kept in `.mutants`, so that a run that was
interrupted continues where it stopped, until the module changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray import plugins
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome
from parso.python.tree import Keyword
from parso.tree import Leaf, NodeOrLeaf

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".mutants"
COPY = HOME / "tree"

# Module -> the tests that fail first when it is broken, the quickest first.
TESTS = {
    "database/claims": "test_claim test_fence test_lease_store test_reset test_lost_answers test_trouble test_races",
    "database/store": "test_fill test_reset test_lost_answers test_lease_store test_values test_reading test_journal",
    "database/statements": (
        "test_claim test_fence test_lease_store test_reset test_fill test_reading test_journal test_inspection"
    ),
    "execution/journaling_store": "test_journal test_refusals test_sync test_outages",
    "execution/journal_file": "test_journal test_sync test_locks_and_full_disks",
    "execution/heartbeat": "test_heartbeats test_leases test_heartbeat_cost test_wait",
    "execution/worker": "test_execute test_failures test_retries test_budget test_emissions test_signals",
    "execution/supervision/supervisor": "test_supervision test_output test_signals test_retries test_budget",
    "execution/supervision/child": "test_supervision test_output test_signals test_functions test_outages",
    "execution/stopping": "test_signals test_functions test_wait",
    "execution/budget": "test_budget test_slurm_answers",
    "cluster/engine": "test_submit test_before_rooms",
    "cluster/job": "test_submit test_before_rooms",
    "cluster/options": "test_submit test_cli",
    "cluster/submission": "test_submit test_cli",
    "machine/gpus": "test_gpus",
    "config/build": "test_config_yaml test_config_values test_config_errors",
    "config/credentials": "test_config_credentials",
    "config/document": "test_config_yaml test_config_ini test_config_errors",
    "config/domains": "test_config_values test_grid test_config_errors",
    "config/ini_file": "test_config_ini",
    "config/interpolation": "test_config_interpolation",
    "config/load": "test_config_yaml test_config_ini test_config_errors",
    "config/names": "test_config_errors test_config_yaml",
    "config/schema": "test_config_schema test_config_errors test_config_yaml",
    "config/yaml_file": "test_config_yaml test_config_errors",
}

# Of the operators of cosmic-ray, those whose mutants are seldom equivalent or noticed by mypy.
OPERATORS = re.compile(
    r"own/.*|core/("
    r"ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Is_IsNot|IsNot_Is)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul)|ReplaceUnaryOperator_(Delete_Not|USub_UAdd)"
    r"|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)"
)

IS_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|AND|EXISTS|ORDER BY|status)\b")
VALUE = r"(?::\w+|'\w+'|\{\w+\})"
CONDITION = rf"(?:(?:\w+\.)?\w+|\{{\w+\}}) (?:IS NOT NULL|IS NULL|(?:=|<>|<=?|>=?) {VALUE})"
SQL = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\s+AND {CONDITION}", ""),
        (rf"(?<=WHERE ){CONDITION} AND ", ""),
        (rf", \w+ = (?:{VALUE}|NULL)", ""),
        (r"\{(?:row_lock|skip_locked)\}", ""),
        (r"\bIS NOT NULL\b", "IS NULL"),
        (r"\bIS NULL\b", "IS NOT NULL"),
        (r" = (?=:|')", " <> "),
        (r" < ", " >= "),
        (r" > ", " <= "),
        (r" AND ", " OR "),
        (r"\bMAX\(", "MIN("),
        (r"\bMIN\(", "MAX("),
        (r" DESC\b", ""),
        (r"(?<=ORDER BY )(?!\{)\w+(?:\.\w+)?(?= |$)", "1"),
        (r"(?<!NOT )\bEXISTS\b", "NOT EXISTS"),
        (r"\bNOT EXISTS\b", "EXISTS"),
        (r" LIMIT \d+\b", ""),
        (r"\bLEFT JOIN\b", "JOIN"),
        (r"'(?:created|running|done|error|paused)'", "'other'"),
        (r" \+ 1\b", ""),
    )
]


class ChangeSql(Operator):
    """Changes a part of a text that is SQL."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        """Yield one position for each change."""
        for _ in self._changed(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Leaf, index: int) -> Leaf:
        """Change the text."""
        node.value = list(self._changed(node))[index]
        return node

    def _changed(self, node: NodeOrLeaf) -> Iterator[str]:
        if node.type not in ("string", "fstring_string") or not IS_SQL.search(node.value):
            return
        if node.parent.type == "simple_stmt":  # a docstring
            return
        for pattern, replacement in SQL:
            for found in pattern.finditer(node.value):
                changed = node.value[: found.start()] + replacement + node.value[found.end() :]
                if changed != node.value:
                    yield changed

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return an example."""
        return (Example("x = 'SELECT 1 FOR {row_lock}'", "x = 'SELECT 1 FOR '"),)


class RemoveStatement(Operator):
    """Removes a call, an assignment to an attribute or item, a raise, or a del."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        """Yield the position of a statement that can be removed."""
        if node.type != "simple_stmt":
            return
        first = node.children[0]
        is_set = first.type == "expr_stmt" and first.children[0].type in ("atom_expr", "power")
        if is_set or first.type in ("atom_expr", "raise_stmt", "del_stmt") or first.get_first_leaf().value == "raise":
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put `pass` in its place."""
        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return an example."""
        return (Example("self.close()\n", "pass\n"),)


def choose_operators() -> None:
    """Make cosmic-ray use these operators, and no others."""
    plugins.OPERATOR_PROVIDERS["own"] = {"ChangeSql": ChangeSql, "RemoveStatement": RemoveStatement}
    for provider, operators in plugins.OPERATOR_PROVIDERS.items():
        chosen = {name: operators[name] for name in operators if OPERATORS.fullmatch(f"{provider}/{name}")}
        plugins.OPERATOR_PROVIDERS[provider] = chosen


def copy_repository() -> None:
    """Copy all files that git tracks or would track."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)


def command(module: str, servers: bool) -> str:
    """Return the command that tests a module."""
    files = [str(next(Path("tests").glob(f"*/{name}.py"))) for name in TESTS[module].split()]
    chosen = [] if servers else ["-m", "not server"]
    return shlex.join([sys.executable, "-m", "pytest", "-xq", "--no-header", "-p", "no:cacheprovider", *chosen, *files])


def session(module: str, servers: bool) -> Path:
    """Return the file with the results of a module as it is now."""
    digest = hashlib.sha256((ROOT / "pyexperimenter" / f"{module}.py").read_bytes()).hexdigest()[:8]
    return HOME / f"{module.replace('/', '.')}-{digest}{'-servers' * servers}.sqlite"


def run(database: WorkDB, module: str, servers: bool) -> None:
    """Test the mutants of a module that have not been tested yet."""
    test = command(module, servers)
    begin = time.monotonic()
    if subprocess.run(shlex.split(test), check=False, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"the tests fail without a mutant: {test}")
    limit = 30 + 3 * (time.monotonic() - begin)
    pending = database.pending_work_items
    for number, item in enumerate(pending, start=1):
        result = mutate_and_test(item.mutations, test, limit)
        database.set_result(item.job_id, result)
        print(f"{module}: {number} of {len(pending)}: {result.test_outcome and result.test_outcome.value}", flush=True)


def report(database: WorkDB, module: str) -> None:
    """Print the score of a module, and its survivors."""
    results = [result for _, result in database.completed_work_items]
    survivors = [result for result in results if result.test_outcome is TestOutcome.SURVIVED]
    for result in survivors:
        print("\n".join(line for line in (result.diff or "").splitlines() if not line.startswith(("---", "+++"))))
    print(f"{module}: {len(results) - len(survivors)} of {len(results)} killed, {database.num_work_items} in all")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"{', '.join(TESTS)}; all by default")
    parser.add_argument("--servers", action="store_true", help="test on database servers, too, which takes longer")
    parser.add_argument("--report", action="store_true", help="print earlier results only")
    options = parser.parse_args()
    chosen = [name for name in TESTS if not options.modules or {name, name.split("/")[-1]} & set(options.modules)]
    choose_operators()
    if not options.report:
        copy_repository()
        os.chdir(COPY)
        os.environ["PYTHONPATH"] = str(COPY)  # before the editable install, in child processes, too
    for module in chosen:
        with use_db(str(session(module, options.servers))) as database:
            if not database.num_work_items:
                init([Path("pyexperimenter", f"{module}.py")], database, {})
            if not options.report:
                run(database, module, options.servers)
            report(database, module)


if __name__ == "__main__":
    main()
