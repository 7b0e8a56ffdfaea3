"""Change the core modules in small ways, one at a time, and see whether the tests notice; see `docs/testing.md`.

The mutants are those of cosmic-ray, with operators of our own for SQL and for statements that are removed. All is done
in a copy of the repository, so that work goes on meanwhile. First, coverage finds which tests execute which lines. Then
each mutant is tested by those that execute its lines, the quickest first, in a process forked from this one, which has
imported what takes long. The results are kept in `.mutants`, so that a run that was interrupted continues where it
stopped, until the module changes.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import coverage
import psutil
import pytest
from cosmic_ray import plugins
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from parso.python.tree import Keyword
from parso.tree import Leaf, NodeOrLeaf

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".mutants"
COPY = HOME / "tree"
FAILURE = HOME / "failure"  # the test that has failed, and why
LIMIT, LIMIT_AGAIN = 10, 60  # seconds of tests that a mutant gets, and one that has survived before
# What takes long to import. Not this library, which is different in each process.
IMPORTS = "click cloudpickle hypothesis jinja2 joblib pandas psycopg pydantic pymysql tabulate tqdm yaml"

# Module -> the tests that fail first when it is broken, the quickest first.
TESTS = {
    "database/claims": (
        "test_claim test_end_and_claim test_fence test_lease_store test_reset test_lost_answers test_trouble test_fill"
        " test_reading test_inspection test_selection test_requires test_refusals test_odd_sessions test_races"
    ),
    "database/store": (
        "test_fill test_fence test_end_and_claim test_claim test_reset test_lost_answers test_lease_store test_values"
        " test_reading test_journal test_bad_journals test_refusals test_trouble test_additions test_limits test_sync"
        " test_execute test_emissions"
    ),
    "database/statements": (
        "test_claim test_fence test_lease_store test_reset test_fill test_reading test_journal test_lost_answers"
        " test_inspection test_selection test_error_groups test_limits test_odd_sessions test_progress test_blocks"
        " test_audit test_smoke test_environments test_importing test_budget test_migrating test_dashboard"
    ),
    "execution/journaling_store": (
        "test_journal test_bad_journals test_lost_answers test_refusals test_threads test_sync test_outages"
    ),
    "execution/journal_file": "test_journal test_bad_journals test_sync test_locks_and_full_disks",
    "execution/heartbeat": "test_heartbeats test_leases test_heartbeat_cost test_wait",
    "execution/worker": "test_worker test_execute test_failures test_retries test_budget test_emissions test_signals",
    "execution/supervision/supervisor": (
        "test_supervisor test_supervision test_output test_signals test_retries test_budget test_scripts"
    ),
    "execution/supervision/child": "test_child test_supervision test_output test_signals test_functions test_outages",
    "execution/stopping": "test_stopping test_supervisor test_signals test_functions test_wait",
    "execution/budget": "test_budget test_slurm_answers",
    "cluster/engine": "test_batch_script test_submit",
    "cluster/job": "test_cluster_job test_batch_script test_submit test_before_rooms",
    "cluster/options": "test_batch_script test_submit test_cli",
    "cluster/refilling": "test_refilling",
    "cluster/submission": "test_submit test_cli",
    "machine/gpus": "test_gpus",
    "config/build": "test_config_yaml test_config_values test_config_errors",
    "config/credentials": "test_config_credentials",
    "config/document": "test_config_yaml test_config_ini test_config_errors",
    "config/domains": "test_config_values test_grid test_config_errors",
    "config/ini_file": "test_config_ini test_config_credentials",
    "config/interpolation": "test_config_interpolation",
    "config/load": "test_config_yaml test_config_ini test_config_errors",
    "config/names": "test_config_errors test_config_yaml",
    "config/schema": "test_config_schema test_config_errors test_config_yaml test_config_values",
    "config/yaml_file": "test_config_yaml test_config_errors",
}

# Of the operators of cosmic-ray, those whose mutants are seldom equivalent or noticed by mypy.
OPERATORS = re.compile(
    r"own/.*|core/("
    r"ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul)|ReplaceUnaryOperator_(Delete_Not|USub_UAdd)"
    r"|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)"
)
# On a line with one of these, AddNot would change the same once more, or more coarsely.
CONDITION = re.compile(
    r"core/Replace(ComparisonOperator_\w*(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)|UnaryOperator_Delete_Not|And|Or)"
)

IS_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|AND|EXISTS|ORDER BY|status)\b")
VALUE = r"(?::\w+|'\w+'|\{\w+\})"
SQL_CONDITION = rf"(?:(?:\w+\.)?\w+|\{{\w+\}}) (?:IS NOT NULL|IS NULL|(?:=|<>|<=?|>=?) {VALUE})"
SQL = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\s+AND {SQL_CONDITION}", ""),
        (rf"(?<=WHERE ){SQL_CONDITION} AND ", ""),
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
        (r"(?<=ORDER BY )(\w+(?:\.\w+)?)\b(?! DESC)", r"\1 DESC"),
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
                changed = node.value[: found.start()] + found.expand(replacement) + node.value[found.end() :]
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


def digest(*paths: Path) -> str:
    """Return what changes when a file does."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:8]


def source(module: str) -> Path:
    """Return the file of a module, in the copy."""
    return Path("pyexperimenter", f"{module}.py")


def forked(function: Callable[[], int], limit: float) -> int | None:
    """Return the exit status of a copy of this process that calls a function; None if it takes longer."""
    if not (child := os.fork()):
        status = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(HOME / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a test that mixes up descriptors must not reach the results
            sys.modules["__main__"] = importlib.import_module("pytest.__main__")  # which children may import
            status = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ended, begin = (0, 0), time.monotonic()
    try:
        while not ended[0] and time.monotonic() < begin + limit:
            time.sleep(0.01)
            ended = os.waitpid(child, os.WNOHANG)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("MUTANTS") == os.environ["MUTANTS"]:
                    process.kill()
    if ended[0]:
        return os.waitstatus_to_exitcode(ended[1])
    os.waitpid(child, 0)
    return None


def pytest_main(files: Iterable[str], plugin: object, *options: str) -> int:
    """Run tests in this process."""
    ignore = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis has been imported
    fixed = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", ignore]
    return int(pytest.main([*fixed, *options, *sorted(files)], plugins=[plugin]))


class Measuring:
    """A plugin of pytest that tells coverage, also in child processes, which test runs, and notes how long it takes."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.coverage = measured
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Name the test."""
        self.coverage.switch_context(item.nodeid)
        self.coverage.set_option("run:context", item.nodeid)
        os.environ["COVERAGE_PROCESS_CONFIG"] = self.coverage.config.serialize()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the time."""
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)


def measure(test: Path, servers: bool, result: Path) -> int:
    """Write which tests of a file execute which lines."""
    data = HOME / "coverage" / test.stem / "data"
    shutil.rmtree(data.parent, ignore_errors=True)
    measured = coverage.Coverage(data_file=str(data), data_suffix=True, branch=False, config_file="pyproject.toml")
    measured.start()
    plugin = Measuring(measured)
    pytest_main([str(test)], plugin, *([] if servers else ["-m", "not server"]))
    measured.stop()
    measured.save()
    measured.combine([str(data.parent)])
    for name in plugin.failed:
        del plugin.seconds[name]
    lines = {
        os.path.relpath(file): measured.get_data().contexts_by_lineno(file)
        for file in measured.get_data().measured_files()
    }
    result.write_text(json.dumps({"seconds": plugin.seconds, "failed": sorted(plugin.failed), "lines": lines}))
    return 0


class Executed:
    """Which tests of a module execute which lines."""

    def __init__(self, module: str, servers: bool, limit: float) -> None:
        self.limit = limit
        self.seconds: dict[str, float] = {}
        self.tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.file = str(source(module))
        self.tree = ast.parse(source(module).read_text())
        for name in TESTS[module].split():
            file = next(Path("tests").glob(f"*/{name}.py"))
            state = digest(file, *sorted(Path("pyexperimenter").rglob("*.py")))
            result = HOME / "coverage" / f"{name}-{state}{'-servers' * servers}.json"
            if not result.exists():
                print(f"{module}: which tests of {name} execute which lines", flush=True)
                if forked(lambda: measure(file, servers, result), 1800):  # noqa: B023
                    raise SystemExit((HOME / "output").read_text())
            measured = json.loads(result.read_text())
            for test in measured["failed"]:
                print(f"{module}: left out, because it was skipped or failed without a mutant: {test}")
            self.seconds |= measured["seconds"]
            for executed, lines in measured["lines"].items():
                for line, tests in lines.items():
                    self.tests[executed, int(line)].update(measured["seconds"].keys() & set(tests))

    def choose(self, line: int) -> list[str]:
        """Return the tests of a line, the quickest first, of as many seconds as a mutant gets."""
        tests = set().union(*(self.tests[place] for place in self._places(line) if place in self.tests))
        chosen: list[str] = []
        left = self.limit
        for test in sorted(tests, key=self.seconds.__getitem__):
            left -= self.seconds[test]
            if left > 0 or not chosen:
                chosen.append(test)
        return chosen

    def _places(self, line: int) -> Iterable[tuple[str, int]]:
        """Return the lines that are executed if this one matters."""
        around = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        innermost = around[-1] if around else self.tree  # around a decorator, there may be none
        if any(isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line for node in around):
            inner = [
                node.lineno - 1 for node in ast.walk(innermost) if isinstance(node, ast.stmt) and node is not innermost
            ]
            end = min(inner, default=innermost.end_lineno)
            return {(self.file, number) for number in (line, *range(innermost.lineno, end + 1))}
        if isinstance(innermost, ast.Assign) and isinstance(around[0], ast.ClassDef):  # the lines that mention it
            name = re.compile(rf"\.{innermost.targets[0].id}\b")
            return [
                (file, number)
                for file in {file for file, _ in self.tests}
                for number, text in enumerate(Path(file).read_text().splitlines(), start=1)
                if name.search(text)
            ]
        return [place for place in self.tests if place[0] == self.file]  # executed by the import


class Choosing:
    """A plugin of pytest that runs these tests only, in this order, and notes which one fails."""

    def __init__(self, tests: list[str], seconds: dict[str, float]) -> None:
        self.tests, self.seconds = tests, seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose."""
        collected = {item.nodeid: item for item in items}
        items[:] = [collected[test] for test in self.tests if test in collected]
        for item in items:
            item.add_marker(pytest.mark.timeout(10 + 5 * self.seconds[item.nodeid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the failure."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            FAILURE.write_text(f"{report.nodeid}\n{crash.message if crash else report.longrepr}"[:2000])


def failure(tests: list[str], seconds: dict[str, float]) -> str | None:
    """Return the first test that fails, and how; None if none does."""
    while tests:
        FAILURE.unlink(missing_ok=True)
        files = {test.partition("::")[0] for test in tests}
        status = forked(
            lambda: pytest_main(files, Choosing(tests, seconds), "-x"),  # noqa: B023
            60 + 3 * sum(seconds[test] for test in tests),
        )
        if status == 0:
            return None
        if not FAILURE.exists():
            return f"\nexit status {status}"
        failed = FAILURE.read_text()
        name = failed.partition("\n")[0]
        # A test with processes may also fail because the machine is busy. Then it must fail again.
        if seconds[name] < 1 or tests == [name] or failure([name], seconds):
            return failed
        tests = tests[tests.index(name) + 1 :]
    return None


def session(module: str) -> Path:
    """Return the file with the results of a module as it is now."""
    return HOME / f"{module.replace('/', '.')}-{digest(source(module))}.sqlite"


def choose(items: Iterable[WorkItem], text: str) -> Iterator[WorkItem]:
    """Leave out what changes the same place once more in the same way, and what says little."""
    lines = text.splitlines()
    chosen: dict[object, WorkItem] = {}
    conditions = {item.mutations[0].start_pos[0] for item in items if CONDITION.match(item.mutations[0].operator_name)}
    for item in items:
        mutation = item.mutations[0]
        kind, place = mutation.operator_name, mutation.start_pos
        changed = lines[place[0] - 1][place[1] :]
        if (
            (kind == "core/AddNot" and place[0] in conditions)
            or (kind == "core/NumberReplacer" and re.match(r"\d\d", changed))  # 31 seconds instead of 30
            or (kind == "core/ReplaceTrueWithFalse" and "@dataclass" in lines[place[0] - 1])  # mypy notices that
            or (kind == "core/ExceptionReplacer" and re.match(r"\w*\.", changed))  # cosmic-ray cannot
        ):
            continue
        chosen.setdefault((kind, place, mutation.occurrence if kind.startswith("own/") else None), item)
    yield from chosen.values()


def test(mutation: MutationSpec, executed: Executed, retouched: int) -> WorkResult:
    """Test a mutant."""
    file = mutation.module_path
    original = file.read_text()
    mutant = mutate_code(original, plugins.get_operator(mutation.operator_name)(), mutation.occurrence)
    tests = executed.choose(mutation.start_pos[0])
    try:
        file.write_text(mutant)
        os.utime(file, (retouched, retouched))  # else Python may take what it compiled of another mutant of this second
        failed = failure(tests, executed.seconds)
    finally:
        file.write_text(original)
    lines = difflib.unified_diff(original.splitlines(), mutant.splitlines(), n=1, lineterm="")
    difference = "\n".join(line for line in lines if not line.startswith(("---", "+++")))
    outcome = TestOutcome.KILLED if failed else TestOutcome.SURVIVED
    return WorkResult(WorkerOutcome.NORMAL, failed or f"{len(tests)} tests passed", outcome, difference)


def run(database: WorkDB, executed: Executed, again: bool, share: float) -> None:
    """Test the mutants that have not been tested yet, or those that survived, in random order."""
    pending = [item for item, _ in survivors(database)] if again else list(database.pending_work_items)
    if not again:
        pending = pending[: max(0, round(share * database.num_work_items) - database.num_results)]
    begin = int(time.time())
    for number, item in enumerate(pending, start=1):
        result = test(item.mutations[0], executed, begin - number)
        database.set_result(item.job_id, result)
        print(f"{item.mutations[0].module_path}: {number} of {len(pending)}: {result.test_outcome}", flush=True)


def survivors(database: WorkDB) -> list[tuple[WorkItem, WorkResult]]:
    """Return the mutants that no test noticed."""
    return [done for done in database.completed_work_items if done[1].test_outcome is TestOutcome.SURVIVED]


def report(database: WorkDB, module: str) -> None:
    """Print the score of a module, and its survivors."""
    survived = survivors(database)
    for _, result in survived:
        print(f"{result.diff}\n{result.output}\n")
    run = database.num_results
    print(f"{module}: {run - len(survived)} of {run} killed, {database.num_work_items} in all", flush=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"{', '.join(TESTS)}; all by default")
    parser.add_argument("--share", type=float, default=1, help="how many of the mutants, drawn at random: 0.5 is half")
    parser.add_argument("--survivors", action="store_true", help="test those that survived again, and longer")
    parser.add_argument("--servers", action="store_true", help="test on database servers, too, which takes longer")
    parser.add_argument("--report", action="store_true", help="print earlier results only")
    options = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that no mutant is left behind
    chosen = [name for name in TESTS if not options.modules or {name, name.split("/")[-1]} & set(options.modules)]
    choose_operators()
    if not options.report:
        copy_repository()
        os.chdir(COPY)
        sys.path.insert(0, str(COPY))  # before the editable install
        os.environ |= {"PYTHONPATH": str(COPY), "MUTANTS": str(os.getpid())}  # the latter marks child processes
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for name in IMPORTS.split():
            importlib.import_module(name)
        gc.freeze()  # so that pytest, which collects garbage twice, need not look at all that
    for module in chosen:
        with use_db(":memory:") as everything, use_db(str(session(module))) as database:
            if not database.num_work_items:
                init([source(module)], everything, {})
                database.add_work_items(choose(everything.work_items, source(module).read_text()))
            if not options.report:
                executed = Executed(module, options.servers, LIMIT_AGAIN if options.survivors else LIMIT)
                run(database, executed, options.survivors, options.share)
            report(database, module)


if __name__ == "__main__":
    main()
