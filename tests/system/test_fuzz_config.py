"""Changed at random, configurations and credential files are read, or refused by an error of the library.

`make stress SECONDS=600` runs this for ten minutes.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st

from tests.support.fuzzed_configs import attempt
from tests.support.fuzzing import ODD_NUMBERS, ODD_TEXTS, Subject, fuzz

ROOT = Path(__file__).resolve().parents[2]

# Inputs are shown in full when a test fails.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

SECRET = "hunter2horse"
CREDENTIALS = {
    "CREDENTIALS": {
        "Database": {"user": "me", "password": SECRET},
        "Connection": {
            "Standard": {"server": "127.0.0.1", "port": 1, "tls": {"verify": False}},
            "Ssh": {"address": "127.0.0.1", "port": 1, "password": SECRET, "passphrase": SECRET, "user": "me"},
        },
    }
}
INI_CREDENTIALS = f"[CREDENTIALS]\nhost = 127.0.0.1\nport = 1\nuser = me\npassword = {SECRET}\n"

# Configurations


def real_texts() -> Iterator[tuple[str, str]]:
    """Yield the name and text of each configuration in the examples and pages."""
    for path in [*ROOT.glob("examples/*/config.yml"), *ROOT.glob("pyexperimenter/study/templates/config/*.yml")]:
        yield "config.yml", path.read_text(encoding="utf-8")
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        for kind, text in re.findall(r"```(yaml|ini)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if "PY_EXPERIMENTER" in text:
                yield "config.ini" if kind == "ini" else "config.yml", text


TEXTS = sorted(set(real_texts()))
TREES = [yaml.safe_load(text) for name, text in TEXTS if name == "config.yml"]

# What YAML can have in the place of a value or a key.
YAML = r"""
!!timestamp x   !!float ''   !!int 1_000   !!int x   !!binary x   !!binary aGVsbG8=   !!set {a, b}
!!omap [a: 1]   !!omap {a: 1}   !!pairs [a: 1, a: 2]   !!python/object:os.system ls   !x y   !!map [1]
!!seq {a: 1}   !!null x   !!str   !!str [1]   !!bool maybe   !!merge x   *nowhere   &a [*a]   &a {b: *a}   &a 1
*a   {<<: [1]}   {<<: {a: 1}}   {<<: *a}   {? [1] : 2}   {? {a: 1} : 2}   {? [[]] : 2}   <<   =   0x1F   0o17
1:30   010   1_0   1e999   +.inf   .nan   ~   2020-01-01   2020-01-01 00:00:00Z   yes
!<tag:yaml.org,2002:int> x   %x   @x   `x   {   ]   '   >-   "\ud800"   "\x00"   "\N"   ${A}   ${oc.env:HOME}
${oc.env:A,${A}}   ${.name}   ${..}   ${   ${${A}}   $${x}   ${PY_EXPERIMENTER}
${PY_EXPERIMENTER.Database.table}   ${PY_EXPERIMENTER.Database.table.name}   ${.[0]}   ${a[99999999999]}
[1, 1]   [0, false]   {start: 0, stop: 1e400}   {start: 0, stop: 1, num: 99999999999999}
{start: 1, stop: 0, step: 1e-400}   {start: 0, stop: 10, step: 1e-300}   {start: .nan, stop: 1}
{sample: uniform, low: 0, high: 1, num: -1}   {sample: uniform, low: 1e308, high: -1e308, num: 9}
{sample: normal, mean: .inf, std: -1, num: 2, seed: x}
"""
YAML_SNIPPETS = st.sampled_from(
    [
        *re.split(r"   |\n", YAML.strip()),
        *("|\n  text", "9" * 5000, "-9" * 300, "[" * 900 + "]" * 900, "[" * 5000, "{a: " * 300 + "1" + "}" * 300),
    ]
)


class Raw(str):
    """A piece of YAML that is put into the text as it is."""


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    ODD_NUMBERS,
    ODD_TEXTS,
    YAML_SNIPPETS.map(Raw),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=4),
)
NESTED = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.sampled_from(
    [
        *(
            object(),
            {1, 2},
            (1, 2),
            1j,
            decimal.Decimal("NaN"),
            decimal.Decimal("1e999"),
            Path("x"),
            dict,
            b"x",
            "\ud800",
        ),
        *(np.float32(1), np.array([1, 2]), np.datetime64("NaT"), np.array(None), datetime.time(1), range(10**12)),
        *(frozenset([1]), Exception("x"), {None: 1}, {b"x": 1}, {(1, 2): 3}, {1: 2}),
    ]
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a tree."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: st.DrawFn, trees: list[Any], values: st.SearchStrategy[Any]) -> Any:
    """A real tree, changed in a few places."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        paths = list(places(tree))
        if not paths:
            break
        *outer, key = draw(st.sampled_from(paths))
        section = at(tree, tuple(outer))
        value = section[key]
        how = draw(st.sampled_from(["replace"] * 3 + ["add", "delete", "rename", "list", "section", "swap"]))
        if how == "replace":
            section[key] = copy.deepcopy(draw(values))
        elif how == "delete":
            del section[key]
        elif how == "list":
            section[key] = [value]
        elif how == "section":
            section[key] = {draw(ODD_TEXTS): value}
        elif how == "swap":
            other = draw(st.sampled_from(trees))
            section[key] = copy.deepcopy(at(other, draw(st.sampled_from(list(places(other))))))
        elif isinstance(section, list):
            section.insert(0, copy.deepcopy(draw(values)))
        elif how == "add":
            name = draw(ODD_TEXTS | st.sampled_from([str(key).upper(), str(key).lower()]))
            section[name] = copy.deepcopy(draw(values))
        else:
            del section[key]
            names = [str(other[-1]) for other in paths]
            section[draw(ODD_TEXTS | st.sampled_from(names) | YAML_SNIPPETS.map(Raw) | st.integers())] = value
    return tree


def as_yaml(tree: Any) -> str:
    """Return a tree as YAML, with its raw pieces."""
    raw: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(str(value))
            return f"RAW{len(raw) - 1}RAW"
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = yaml.safe_dump(plain(tree), sort_keys=False, allow_unicode=True)
    return re.sub(r"RAW(\d+)RAW", lambda match: raw[int(match[1])], text)


PIECES = [
    *(
        b"",
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b": ",
        b"- ",
        b"#",
        b"[",
        b"{",
        b"}",
        b"'",
        b'"',
        b"\\",
        b"x",
        b"%",
        b"%(",
        b"${",
    ),
    *(b"&a ", b"*a", b"<<: ", b"! ", b"|", b"1e3", b"-9", b"null", b",", b"---\n", b"\x0c", b"\0", b"\xff"),
    *("\x85".encode(), "\u2028".encode()),
]


@st.composite
def edited(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> bytes:
    """A text with some bytes changed, as by an accident or in another encoding."""
    encoding = draw(st.sampled_from(["utf-8"] * 30 + ["utf-8-sig", "utf-16", "latin-1"]))
    content = draw(texts).encode(encoding, "replace")
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(PIECES) | st.sampled_from([content[end : end + 40], content[:start]]))
        content = content[:start] + piece + content[end:]
    return content


INI = """
1:10:0   1:1e999   1:2:3:4   0:1:1e-300   %(keyfields)s   %(nothing)s   %   a:b:c   1:99999999999   5, 1:99999999999
0:9999999:1   a,,b   ,   a:int, a:int   a:DECIMAL(   a:(,)   1:5, x
"""
INI_SNIPPETS = st.sampled_from(re.split(r"   |\n", INI.strip()))


@st.composite
def ini(draw: st.DrawFn) -> str:
    """A real INI file with some lines changed."""
    lines = draw(st.sampled_from([text for name, text in TEXTS if name == "config.ini"])).splitlines()
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        number = draw(st.integers(0, len(lines) - 1))
        name, _, value = lines[number].partition("=")
        how = draw(st.sampled_from(["value", "name", "twice", "delete", "indent", "append"]))
        odd = draw(ODD_TEXTS | INI_SNIPPETS)
        lines[number] = {
            "value": f"{name}= {odd}",
            "name": f"{odd}={value}",
            "twice": f"{lines[number]}\n{lines[number]}",
            "delete": "",
            "indent": f"  {lines[number]}",
            "append": f"{lines[number]}{odd}",
        }[how]
    return "\n".join(lines)


CONFIGS = st.one_of(
    st.tuples(st.just("config.yml"), mutated(TREES, NESTED).map(lambda tree: as_yaml(tree).encode("utf-8", "replace"))),
    st.tuples(st.just("config.yml"), edited(st.sampled_from([text for name, text in TEXTS if name == "config.yml"]))),
    st.tuples(st.sampled_from(["config.ini", "config"]), ini().map(lambda text: text.encode("utf-8", "replace"))),
    st.tuples(st.just("config.ini"), edited(st.sampled_from([text for name, text in TEXTS if name == "config.ini"]))),
    mutated(TREES, st.recursive(VALUES | OBJECTS, lambda inner: st.lists(inner, max_size=2), max_leaves=3)),
)


@pytest.fixture
def subject() -> Iterator[Subject]:
    with closing(Subject(attempt)) as subject:
        yield subject


def test_configs(subject: Subject, pytestconfig: pytest.Config) -> None:
    def check(source: Any) -> None:
        *_, wrong = subject(source, yaml.safe_dump(CREDENTIALS).encode())
        if wrong:
            pytest.fail(wrong, pytrace=False)

    fuzz(CONFIGS, check, pytestconfig)


# Credential files

SERVER = copy.deepcopy(next(tree for tree in TREES if "Database" in tree["PY_EXPERIMENTER"]))
SERVER["PY_EXPERIMENTER"]["Database"] |= {"provider": "mysql", "database": "study"}


def test_credentials(subject: Subject, pytestconfig: pytest.Config) -> None:
    def check(arguments: tuple[bool, bytes]) -> None:
        use_ssh, content = arguments
        config = copy.deepcopy(SERVER)
        config["PY_EXPERIMENTER"]["Database"]["use_ssh_tunnel"] = use_ssh
        valid, shown, variables, wrong = subject(config, content)
        if wrong:
            pytest.fail(wrong, pytrace=False)
        if not has_another_place(content):
            assert SECRET not in shown + variables
        assert valid or SECRET not in shown

    trees = mutated([CREDENTIALS], NESTED).map(as_yaml)
    texts = edited(trees | st.sampled_from([yaml.safe_dump(CREDENTIALS), INI_CREDENTIALS]))
    contents = trees.map(lambda text: text.encode("utf-8", "replace")) | texts
    fuzz(st.tuples(st.booleans(), contents), check, pytestconfig)


def has_another_place(content: bytes) -> bool:
    """Return whether a credential file has the password where there is none, such as in the user's name."""
    try:
        tree = yaml.load(content, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        lines = [line for line in content.splitlines() if SECRET.encode() in line]
        return not all(line.lower().startswith(b"password") for line in lines)
    keys = {"password", "passphrase", "ssh_private_key_password"}
    found = (path for path in places(tree) if SECRET in str(at(tree, path)) and isinstance(at(tree, path), str))
    return any(str(path[-1]).lower() not in keys for path in found)
