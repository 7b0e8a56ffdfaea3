"""The grid against an independent brute force; its size, its use of memory, and what it refuses."""

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyexperimenter.exceptions import (
    ContradictoryConditionError,
    EmptyDomainError,
    InvalidValuesInConfiguration,
    PyExperimenterError,
)
from pyexperimenter.grid import Design, Domain, Grid, Lazy, spaced, stepped

# Brute force: all combinations, then filter. Written from the documentation, not from the code.


def identical(value):
    """Return the identity of a value: 1 is 1.0, but 1 is not True."""
    return isinstance(value, bool), value


def meets(row, condition):
    return all(identical(row[name]) in map(identical, allowed) for name, allowed in condition.items())


def in_walking_order(axes, domains):
    """Return the axes in order, each after the keyfields that its condition names."""
    placed, waiting = [], list(axes)
    while waiting:
        known = set(itertools.chain(*placed))
        axis = next(a for a in waiting if all(set(domains[name].when or ()) <= known for name in a))
        waiting.remove(axis)
        placed.append(axis)
    return placed


def brute_force(domains, exclude, include, zipped):
    """Return the rows of the grid, and those of `include` that it lacks."""
    group_of = {name: tuple(n for n in domains if n in group) for group in zipped for name in group}
    axes = in_walking_order(dict.fromkeys(group_of.get(name, (name,)) for name in domains), domains)
    choices = [list(zip(*(domains[name].values for name in axis), strict=True)) for axis in axes]
    rows, seen = [], set()
    for combination in itertools.product(*choices):
        row = dict(zip(itertools.chain(*axes), itertools.chain(*combination), strict=True))
        for name in row:  # in walking order: the keyfields that a condition names come before
            if domains[name].when is not None and not meets(row, domains[name].when):
                row[name] = None
        row = {name: row[name] for name in domains}
        key = tuple(map(identical, row.values()))
        if key not in seen:
            seen.add(key)
            rows.append(row)
    rows = [row for row in rows if not any(meets(row, condition) for condition in exclude)]
    known = {tuple(map(identical, row.values())) for row in rows}
    extra = []
    for given_row in include:
        row = {name: given_row.get(name) for name in domains}
        key = tuple(map(identical, row.values()))
        if key not in known:
            known.add(key)
            extra.append(row)
    return rows, extra


VALUES = [0, 1, 2, True, False, "x", "y", 1.5, None]


@st.composite
def grids(draw):
    """Draw the arguments of a small grid; its conditions make no circle."""
    names = draw(st.permutations("abcde"))[: draw(st.integers(1, 5))]
    groups = [names[:2]] if len(names) > 1 and draw(st.booleans()) else []
    zipped = set(itertools.chain(*groups))
    length = draw(st.integers(1, 3))
    domains = {}
    for name in draw(st.permutations(names)):
        sizes = (length, length) if name in zipped else (1, 3)
        values = draw(st.lists(st.sampled_from(VALUES), min_size=sizes[0], max_size=sizes[1], unique_by=identical))
        when = None
        if domains and name not in zipped and draw(st.booleans()):
            when = draw(conditions(domains))  # on keyfields drawn before, so that conditions nest without a circle
        domains[name] = Domain(values, when)
    in_order = {name: domains[name] for name in draw(st.permutations(names))}
    exclude = draw(st.lists(conditions(in_order), max_size=2))
    one_of_its_own = {name: st.sampled_from([*domain.values, None]) for name, domain in in_order.items()}
    rows = st.fixed_dictionaries({}, optional=one_of_its_own) | st.dictionaries(
        st.sampled_from(names), st.sampled_from(VALUES)
    )
    return in_order, exclude, draw(st.lists(rows, max_size=3)), groups


@st.composite
def conditions(draw, domains):
    condition = {}
    for name in draw(st.lists(st.sampled_from(list(domains)), min_size=1, max_size=3, unique=True)):
        known = [*domains[name].values, *([None] if domains[name].when is not None else [])]
        condition[name] = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    return condition


@settings(max_examples=600)
@given(grids())
def test_a_grid_equals_brute_force(arguments):
    domains, exclude, include, zipped = arguments
    rows, extra = brute_force(domains, exclude, include, zipped)
    conditions = [domain.when for domain in domains.values() if domain.when is not None]
    if any(not any(meets(row, condition) for row in rows) for condition in conditions):
        with pytest.raises(ContradictoryConditionError, match="no row of the grid meets"):
            Grid(*arguments)
        return
    grid = Grid(*arguments)
    found = list(grid)
    assert list(map(repr, found)) == list(map(repr, rows + extra))  # repr distinguishes True from 1
    assert len(grid) == len(found)
    assert len({tuple(map(identical, row.values())) for row in found}) == len(found)
    assert list(grid) == found  # a second iteration gives the same rows


@settings(max_examples=150)
@given(grids(), st.data())
def test_with_a_design_the_same_rows_come_block_by_block(arguments, data):
    names = list(arguments[0])
    blocks = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    compare = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
    shuffle = data.draw(st.none() | st.integers(0, 5))
    try:
        rows = list(Grid(*arguments))
        found = list(Grid(*arguments, Design(tuple(blocks), tuple(compare), shuffle)))
    except (ContradictoryConditionError, InvalidValuesInConfiguration):
        return  # of the grid itself, or what a block is depends on others; see the messages below
    keys = [tuple(identical(row[name]) for name in blocks) for row in found]
    assert len(list(itertools.groupby(keys))) == len(set(keys))  # no block comes twice
    assert sorted(map(repr, found)) == sorted(map(repr, rows))
    assert all(list(row) == names for row in found)


def test_the_order_of_blocks():
    domains = {"method": "ab", "C": Domain([1, 2], {"method": "b"}), "data": "xyz", "seed": range(30)}
    grid = Grid(domains, design=Design(("data", "seed"), ("method",), shuffle=3))
    order = list(dict.fromkeys((row["data"], row["seed"]) for row in grid))
    assert order[:3] == [("x", 28), ("y", 18), ("x", 16)]  # for ever
    fewer = Grid({**domains, "data": "zx"}, design=Design(("data", "seed"), shuffle=3))
    assert list(dict.fromkeys((row["data"], row["seed"]) for row in fewer)) == [at for at in order if at[0] != "y"]
    assert [row["method"] for row in grid][:6] == ["a", "b", "b"] * 2


def test_what_is_compared_varies_fastest():
    domains = {"method": "ab", "size": [1, 2], "seed": [0]}
    rows = Grid(domains, design=Design(("seed",), ("method",)))
    assert [(row["size"], row["method"]) for row in rows] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_included_rows_end_their_block():
    include = [{"method": "c", "seed": 1}, {"method": "c", "seed": 7}]
    rows = Grid({"method": "ab", "seed": range(3)}, include=include, design=Design(("seed",), shuffle=None))
    assert [row["method"] for row in rows] == [*"ab", *"abc", *"ab", "c"]


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (Design(("C",)), "C depends on method, which is not in blocks"),
        (Design(("seed",)), "seed depends on data, which is not in blocks"),
        (Design(("method", "C", "data", "seed")), "nothing to compare"),
        (Design(("data", "seed"), ("seed",)), "seed is in blocks, too"),
        (Design(("fold",)), "'fold' is not a keyfield"),
        (Design(("method",), ("fold",)), "'fold' is not a keyfield"),
    ],
)
def test_designs_that_are_refused(design, message):
    domains = {"method": "ab", "C": Domain([1, 2], {"method": "b"}), "data": "xy", "seed": [0, 1]}
    with pytest.raises(InvalidValuesInConfiguration, match=message):
        Grid(domains, zipped=[["data", "seed"]], design=design)


@settings(max_examples=300)
@given(grids(), st.data())
def test_rows_are_members_without_expanding_the_grid(arguments, data):
    try:
        grid = Grid(*arguments)
    except ContradictoryConditionError:
        return
    members = {tuple(map(identical, row.values())) for row in grid}
    assert all(grid.membership.holds(row) for row in grid)
    rows = st.tuples(*[st.sampled_from(VALUES)] * len(grid.columns))
    for row in data.draw(st.lists(rows, max_size=30)):
        is_member = tuple(map(identical, row)) in members
        assert grid.membership.holds(dict(zip(grid.columns, row, strict=True))) is is_member


@pytest.mark.timeout(20)
def test_membership_in_a_huge_grid_needs_no_scan():
    domains = {"a": range(10**9), "b": stepped(0, 10**9, 1.0), "c": Domain(range(10**9), {"a": [3]})}
    holds = Grid(domains, exclude=[{"a": [5]}], include=[{"a": 5, "b": 5.0}], zipped=[["a", "b"]]).membership.holds
    assert holds({"a": 7, "b": 7.0, "c": None}) and holds({"a": 3, "b": 3.0, "c": 10**8})
    assert holds({"a": 5, "b": 5.0, "c": None})  # included
    for row in ({"a": 7, "b": 8.0, "c": None}, {"a": 3, "b": 3.0, "c": None}, {"a": 7, "b": 7.0, "c": 1}):
        assert not holds(row)


@settings(max_examples=150)
@given(grids())
def test_converted_rows_are_the_rows_converted(arguments):
    try:
        grid = Grid(*arguments)
    except ContradictoryConditionError:
        return
    shown = {name: lambda value, name=name: None if value is None else f"{name}:{value!r}" for name in "ace"}
    expected = [tuple(shown.get(name, lambda v: v)(value) for name, value in row.items()) for row in grid]
    assert list(map(repr, grid.tuples(shown))) == list(map(repr, expected))


def test_the_order_is_that_of_nested_loops():
    grid = Grid({"a": [2, 1], "b": ["y", "x"]})
    assert list(grid.tuples()) == [(2, "y"), (2, "x"), (1, "y"), (1, "x")]
    assert grid.columns == ("a", "b")
    assert next(iter(grid)) == {"a": 2, "b": "y"}


def test_a_keyfield_varies_after_those_that_its_condition_names():
    grid = Grid({"gamma": Domain([1, 2], {"kernel": ["rbf"]}), "kernel": ["linear", "rbf"], "seed": [7, 8]})
    rows = [
        (None, "linear", 7),
        (None, "linear", 8),
        (1, "rbf", 7),
        (1, "rbf", 8),
        (2, "rbf", 7),
        (2, "rbf", 8),
    ]
    assert list(grid.tuples()) == rows
    assert len(grid) == 6
    assert list(next(iter(grid))) == ["gamma", "kernel", "seed"]  # still in the order of the configuration


def test_a_grid_without_conditions_is_a_product():
    assert Grid({"a": [1, 2], "b": [3, 4]}, zipped=[["a", "b"]]).is_product
    assert Grid({"a": [1, 2]}, include=[{"a": 2}]).is_product
    assert not Grid({"a": [1, 2]}, include=[{"a": 3}]).is_product
    assert not Grid({"a": [1, 2]}, exclude=[{"a": [2]}]).is_product
    assert not Grid({"a": [1, 2], "b": Domain([3], {"a": [1]})}).is_product


def test_zipped_keyfields_vary_together_at_the_place_of_the_first():
    grid = Grid(
        {"dataset": ["iris", "wine"], "seed": [0, 1], "target": ["species", "color"]}, zipped=[["target", "dataset"]]
    )
    assert list(grid.tuples()) == [
        ("iris", 0, "species"),
        ("iris", 1, "species"),
        ("wine", 0, "color"),
        ("wine", 1, "color"),
    ]
    assert len(grid) == 4


def test_rows_beyond_the_grid_come_last_in_their_order_and_once():
    include = [{"a": 9}, {"a": 1, "b": "x"}, {"b": "x", "a": 8}, {"a": 9, "b": None}, {"a": 2, "b": "y"}]
    grid = Grid({"a": [1, 2], "b": ["x", "y"]}, exclude=[{"a": [2], "b": ["y"]}], include=include)
    assert list(grid.tuples()) == [(1, "x"), (1, "y"), (2, "x"), (9, None), (8, "x"), (2, "y")]
    assert len(grid) == 6


def test_a_row_with_a_mismatched_zipped_pair_is_not_in_the_grid():
    grid = Grid({"a": [1, 2], "b": ["x", "y"]}, include=[{"a": 1, "b": "x"}, {"a": 1, "b": "y"}], zipped=[["a", "b"]])
    assert list(grid.tuples()) == [(1, "x"), (2, "y"), (1, "y")]
    assert len(grid) == 3


def test_none_in_a_condition_means_not_set():
    domains = {
        "a": [1, 2],
        "b": Domain([5], {"a": [1]}),
        "c": Domain(["set"], {"b": [None]}),
    }
    assert list(Grid(domains).tuples()) == [(1, 5, None), (2, None, "set")]
    domains["d"] = [0, 1]
    exclude = [{"b": [None], "d": [0]}, {"c": [None], "d": [1]}]
    assert list(Grid(domains, exclude).tuples()) == [(1, 5, None, 0), (2, None, "set", 1)]


# Equal and different values


def test_true_and_1_are_two_values_and_1_and_1_0_are_one():
    grid = Grid({"a": [1, True, 0, False]}, exclude=[{"a": [True]}], include=[{"a": 0.0}, {"a": 1}, {"a": True}])
    assert list(map(repr, grid.tuples())) == ["(1,)", "(0,)", "(False,)", "(True,)"]
    assert len(grid) == 4
    assert len(Grid({"a": [5]}, include=[{"a": 1}, {"a": True}, {"a": 1.0}])) == 3


@pytest.mark.parametrize(
    "values, repeated, index",
    [
        (["x", "y", "x"], "'x'", 2),
        ([1, 1.0], "1.0", 1),
        ((True, 1, True), "True", 2),
        ([None, None], "None", 1),
        ([{"depth": 1, "leaf": 2}, {"leaf": 2, "depth": 1}], "{'leaf': 2, 'depth': 1}", 1),
        ([[1, [2]], (1, [2])], "(1, [2])", 1),
    ],
)
def test_a_repeated_value_is_refused(values, repeated, index):
    with pytest.raises(InvalidValuesInConfiguration) as caught:
        Grid({"b": ["fine"], "a": values})
    assert str(caught.value) == f"a has the value {repeated} twice; give each value once"
    assert caught.value.path == ("keyfields", "a", "values", index)


def test_lists_and_dicts_are_values_like_others():
    values = [[1], [True], {"a": 1}, {"a": True}, "[1]", (1, [2])]
    grid = Grid({"a": values}, exclude=[{"a": [[True], {"a": 1}]}], include=[{"a": [1]}])
    assert list(map(repr, grid.tuples())) == ["([1],)", "({'a': True},)", "('[1]',)", "((1, [2]),)"]
    assert len(grid) == 4


# Size and memory


@pytest.mark.timeout(20)
def test_the_size_of_a_huge_grid_is_known_at_once():
    assert len(Grid({name: range(1000) for name in "abcd"})) == 10**12
    assert len(Grid({"a": range(10**12)})) == 10**12
    assert len(Grid({"a": stepped(0, 10**6, 1e-6)})) == 10**12
    assert len(Grid({"a": spaced(0, 1, 10**12)})) == 10**12
    assert len(Grid({"a": range(10**6), "b": range(10**6), "c": ["x"]}, zipped=[["a", "b"]])) == 10**6


@pytest.mark.timeout(20)
def test_conditions_and_exclusions_of_a_huge_grid_count_at_once():
    domains = {
        "a": range(10**6),
        "b": stepped(0, 10**6, 1.0),
        "c": Domain([1, 2, 3], {"a": [0, 10, 999_999], "b": [7]}),
        "d": Domain(["x", "y"], {"c": [2, None]}),
    }
    # Of 10**12 pairs (a, b), three have a c: 1, 2 or 3; only c = 2 goes with two values of d, and so does no c.
    assert len(Grid(domains)) == 3 * (1 + 2 + 1) + (10**12 - 3) * 2
    exclude = [{"a": [5]}, {"b": [1, 2.0], "d": ["x"]}, {"a": [10], "b": [7], "c": [2]}]
    # a = 5 leaves out 10**6 pairs, twice each; then d = "x" goes for two b of each other a; last, c = 2 with both d.
    include = [{"a": 6, "b": 3, "d": "x"}, {"a": 5, "b": 0.0}, {"a": 0.5}, {"d": "x"}]
    assert len(Grid(domains, exclude)) == 3 * 4 + (10**12 - 3) * 2 - 2 * 10**6 - 2 * (10**6 - 1) - 2
    assert len(Grid(domains, exclude, include)) == len(Grid(domains, exclude)) + 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "values", [range(10**12), range(10**12, 0, -1), stepped(0, 10**12, 1.0), stepped(10**12, 0, -1.0)]
)
def test_a_value_is_found_in_a_range_without_a_scan(values):
    include = [{"a": 5}, {"a": 7.0}, {"a": 0.5}, {"a": None}, {"a": "5"}, {"a": True}, {"a": float("inf")}]
    grid = Grid({"a": values}, exclude=[{"a": [7, 10**11]}], include=include)
    assert len(grid) == 10**12 - 2 + 6  # 5 is in the grid already, and 7 is added again
    with pytest.raises(ContradictoryConditionError) as caught:
        Grid({"a": values}, exclude=[{"a": ["5"]}])
    assert str(caught.value).startswith("a is never '5'; its values are ")
    assert str(caught.value).endswith(", ... (1000000000000 in all)")


def test_true_is_not_found_in_a_range_of_numbers():
    values = Lazy(10, int)
    assert list(Grid({"a": values}, exclude=[{"a": list(range(1, 10))}])) == [{"a": 0}]
    with pytest.raises(ContradictoryConditionError, match="a is never True"):
        Grid({"a": values}, exclude=[{"a": [True]}])


def test_more_rows_than_can_be_counted_are_refused():
    with pytest.raises(InvalidValuesInConfiguration, match="the grid has 100000000000000000000 rows; take fewer"):
        Grid({name: range(10**5) for name in "abcd"})


@pytest.mark.parametrize(
    "domains, arguments",
    [
        ({"a": range(10**7), "b": ["x", "y"]}, {}),
        ({"b": ["x", "y"], "a": stepped(0, 10**6, 0.1)}, {}),
        ({"a": Lazy(10**7, str)}, {}),
        ({name: list(range(10)) for name in "abcdefg"}, {}),
        (
            {"a": range(10**7), "b": Domain([1, 2], {"a": [0, 5, 7]}), "c": [0, 1]},
            {"exclude": [{"a": [3, 50_000], "c": [1]}]},
        ),
    ],
    ids=["long range", "long floats", "long texts", "many rows", "watched"],
)
def test_iteration_needs_constant_memory(domains, arguments):
    tracemalloc.start()
    try:
        rows = Grid(domains, **arguments).tuples(dict.fromkeys(domains, lambda value: value))
        for _ in itertools.islice(rows, 1000):
            pass
        _, at_first = tracemalloc.get_traced_memory()
        for _ in itertools.islice(rows, 60_000):
            pass
        _, later = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert at_first < 1_000_000
    assert later - at_first < 500_000  # keeping 60,000 rows would take megabytes


def test_a_value_of_a_domain_is_converted_once_not_once_a_row():
    calls = []
    grid = Grid({"a": range(500), "b": ["x", "y"]})
    rows = list(grid.tuples({"b": lambda value: calls.append(value) or value.upper()}))
    assert calls == ["x", "y"]
    assert (rows[0], rows[-1]) == ((0, "X"), (499, "Y"))


def test_long_domains_are_converted_during_iteration():
    calls = []
    rows = Grid({"a": range(10**9)}).tuples({"a": lambda value: calls.append(value) or str(value)})
    assert list(itertools.islice(rows, 3)) == [("0",), ("1",), ("2",)]
    assert len(calls) <= 4


def test_two_iterations_are_independent():
    grid = Grid({"a": [1, 2], "b": Domain([3, 4], {"a": [2]}), "c": [5, 6]}, exclude=[{"a": [1], "c": [6]}])
    walks = [iter(grid), iter(grid)]
    assert [row for pair in zip(*walks, strict=True) for row in pair] == [row for row in grid for _ in range(2)]


def test_a_grid_without_keyfields_has_no_rows():
    grid = Grid({})
    assert (len(grid), list(grid)) == (0, [])


# Errors: place, value, remedy


@pytest.mark.parametrize(
    "error, message, path, domains, arguments",
    [
        (EmptyDomainError, "a has no values; give at least one", ("keyfields", "a", "values"), {"a": []}, {}),
        (
            ContradictoryConditionError,
            "a is never 3; its values are 1, 2",
            ("keyfields", "b", "when", "a"),
            {"b": Domain([1], {"a": [1, 3]}), "a": [1, 2]},
            {},
        ),
        (
            ContradictoryConditionError,
            "a is never True; its values are 1, 2",
            ("exclude", 1, "a"),
            {"a": [1, 2]},
            {"exclude": [{"a": [1]}, {"a": [True]}]},
        ),
        (
            ContradictoryConditionError,
            "a is never None; its values are 1, 2",
            ("exclude", 0, "a"),
            {"a": [1, 2]},
            {"exclude": [{"a": [None]}]},
        ),
        (
            ContradictoryConditionError,
            "the list of values of a is empty; give at least one",
            ("exclude", 0, "a"),
            {"a": [1, 2]},
            {"exclude": [{"a": []}]},
        ),
        (
            ContradictoryConditionError,
            "the condition is empty; name at least one keyfield and value",
            ("keyfields", "b", "when"),
            {"a": [1], "b": Domain([1], {})},
            {},
        ),
        (
            ContradictoryConditionError,
            "the conditions of a, b depend on each other in a circle, so none can be met; "
            "remove at least one 'when' of the circle",
            ("keyfields", "a", "when"),
            {"a": Domain([1], {"b": [1]}), "b": Domain([1], {"a": [1]}), "c": [1]},
            {},
        ),
        (
            ContradictoryConditionError,
            "no row of the grid meets the condition of c; change or remove it",
            ("keyfields", "c", "when"),
            {"a": [1, 2], "b": Domain([1], {"a": [1]}), "c": Domain([1], {"a": [2], "b": [1]})},
            {},
        ),
        (
            ContradictoryConditionError,
            "no row of the grid meets the condition of b; change or remove it",
            ("keyfields", "b", "when"),
            {"a": [1, 2], "b": Domain([1], {"a": [2]})},
            {"exclude": [{"a": [2]}]},
        ),
        (
            InvalidValuesInConfiguration,
            "'z' is not a keyfield; choose from a, b",
            ("keyfields", "a", "when", "z"),
            {"a": Domain([1], {"z": [1]}), "b": [1]},
            {},
        ),
        (
            InvalidValuesInConfiguration,
            "'z' is not a keyfield; choose from a",
            ("include", 1, "z"),
            {"a": [1]},
            {"include": [{"a": 1}, {"z": 1}]},
        ),
        (
            InvalidValuesInConfiguration,
            "'z' is not a keyfield; choose from a",
            ("exclude", 0, "z"),
            {"a": [1]},
            {"exclude": [{"z": [1]}]},
        ),
        (
            InvalidValuesInConfiguration,
            "'z' is not a keyfield; choose from a",
            ("zip", 0, "z"),
            {"a": [1]},
            {"zipped": [["a", "z"]]},
        ),
        (
            InvalidValuesInConfiguration,
            "zipped keyfields need the same number of values: a has 1, b has 2",
            ("zip", 0),
            {"a": [1], "b": [1, 2]},
            {"zipped": [["a", "b"]]},
        ),
        (
            InvalidValuesInConfiguration,
            "a is zipped twice; remove one",
            ("zip", 1),
            {"a": [1], "b": [1], "c": [1]},
            {"zipped": [["a", "b"], ["c", "a"]]},
        ),
        (
            InvalidValuesInConfiguration,
            "a is zipped twice; remove one",
            ("zip", 0),
            {"a": [1]},
            {"zipped": [["a", "a"]]},
        ),
        (
            InvalidValuesInConfiguration,
            "b is zipped, so it cannot have a 'when'; remove the condition or the zip",
            ("zip", 0),
            {"a": [1, 2], "b": Domain([1, 2], {"c": [1]}), "c": [1]},
            {"zipped": [["a", "b"]]},
        ),
    ],
)
def test_an_invalid_grid_is_refused(error, message, path, domains, arguments):
    with pytest.raises(PyExperimenterError) as caught:
        Grid(domains, **arguments)
    assert type(caught.value) is error
    assert str(caught.value) == message
    assert caught.value.path == path
