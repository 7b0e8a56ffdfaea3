"""The errors: their tree is as drawn, one except catches them all, and they can be pickled."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import re

import pytest

import pyexperimenter
from pyexperimenter import exceptions
from pyexperimenter.exceptions import InvalidConfigError, NoConfigFileError, PyExperimenterError

ERRORS = [item for item in vars(exceptions).values() if inspect.isclass(item) and issubclass(item, Exception)]

# Used between the readers of files only, and within the reader of frames.
NEVER_LEAVES = {"FileProblem", "_UnusualValuesError"}


def drawn_tree():
    """Return name -> name of the parent (and of a second one) as drawn in the module's docstring."""
    parents, above = {}, {}
    for line in exceptions.__doc__.splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+)(?: \((\w+)\))?", line)
        if match is None:
            continue
        branch, name, second = match.groups()
        assert len(branch) % 4 == 0, f"{name} is not aligned"
        depth = len(branch) // 4
        above[depth] = name
        assert name not in parents, f"{name} is drawn twice"
        parents[name] = [above[depth - 1] if depth else "Exception", *([second] if second else [])]
    return parents


def test_the_drawn_tree_is_the_real_one():
    real = {error.__name__: [base.__name__ for base in error.__bases__] for error in ERRORS}
    assert drawn_tree() == real


def test_the_branches_are_drawn_as_they_hang():
    """A last child has └, the others ├, and a line │ goes down from each that has a sibling to come."""
    tree = [line[4:] for line in exceptions.__doc__.splitlines() if re.match(r"    ([│├└]|PyExp)", line)]
    depths = [len(re.match(r"[│├└─ ]*", line).group()) // 4 for line in tree]
    for row, line in enumerate(tree):
        for level in range(depths[row]):
            below = next((depth for depth in depths[row + 1 :] if depth <= level + 1), 0)
            goes_on = below == level + 1
            is_own = level == depths[row] - 1
            expected = ("├── " if goes_on else "└── ") if is_own else ("│   " if goes_on else "    ")
            assert line[4 * level : 4 * level + 4] == expected, line


def test_every_error_of_the_library_hangs_in_the_tree():
    """One `except PyExperimenterError` catches them all, including those that are private to a module."""
    for module in pkgutil.walk_packages(pyexperimenter.__path__, "pyexperimenter."):
        if module.name == "pyexperimenter.__main__":
            continue
        for name, item in vars(importlib.import_module(module.name)).items():
            ours = inspect.isclass(item) and item.__module__.startswith("pyexperimenter.")
            if ours and issubclass(item, Exception) and name not in NEVER_LEAVES:
                assert issubclass(item, PyExperimenterError), f"{module.name}.{name}"


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_says_what_it_means(error):
    assert error.__doc__ not in (None, error.__base__.__doc__)
    assert error.__doc__.split("\n")[0].endswith(".")


@pytest.mark.parametrize("carry", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_keeps_its_message_on_the_way(error, carry):
    original = error("table.keyfields: 'ü' is wrong; mend it")
    arrived = carry(original)
    assert type(arrived) is error
    assert str(arrived) == str(original) == "table.keyfields: 'ü' is wrong; mend it"
    assert arrived.args == original.args


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", [error for error in ERRORS if issubclass(error, InvalidConfigError)])
def test_an_error_of_a_configuration_keeps_its_place(error, protocol):
    original = error("it is wrong", ("keyfields", "a", "values", 3))
    arrived = pickle.loads(pickle.dumps(original, protocol))
    assert (type(arrived), str(arrived)) == (error, "it is wrong")
    assert arrived.path == ("keyfields", "a", "values", 3)
    assert error("no place").path == ()
    assert pickle.loads(pickle.dumps(error("no place"), protocol)).path == ()


@pytest.mark.parametrize("error", ERRORS)
def test_one_except_catches_them_all(error):
    with pytest.raises(PyExperimenterError, match=r"^caught$"):
        raise error("caught")


def test_a_missing_file_is_a_missing_file():
    error = NoConfigFileError("there is no file x.yml")
    assert isinstance(error, FileNotFoundError)
    assert str(error) == "there is no file x.yml"
    assert str(NoConfigFileError()) == ""
