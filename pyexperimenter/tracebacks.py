"""What the error of an experiment says: what kind it is, a summary in one line, and where the function was.

An error is a traceback, or the cause for which a process was killed, followed by its last output. That may have the
stacks of its threads, as printed by `faulthandler`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple


class Frame(NamedTuple):
    """A frame of a stack, with its line as it was printed."""

    line: str
    file: str
    number: str
    function: str

    @property
    def is_ours(self) -> bool:
        """Whether it is a frame of this library."""
        return _OURS.search(self.file) is not None

    @property
    def is_of_library(self) -> bool:
        """Whether it is a frame of Python or of an installed package, as far as its path shows."""
        return self.is_ours or _LIBRARY.search(self.file) is not None


class ErrorText(NamedTuple):
    """The parts of an error.

    Attributes
    ----------
    cause : str
        The traceback, or why the process was killed.
    stacks : sequence of sequences of Frame
        The stacks of the process's threads, the most recent call first. That of the experiment function is first.
        Threads of this library, and its frames below the function, are left out.
    output : str
        The last output, without the stacks.
    """

    cause: str
    stacks: Sequence[Sequence[Frame]]
    output: str

    @property
    def place(self) -> str | None:
        """Where the function was when its process was killed, if known."""
        return _place(self.stacks[0]) if self.stacks else None

    @property
    def folded_stacks(self) -> str:
        """The stacks, with frames of Python and of installed packages folded."""
        lines: list[str] = []
        for stack in self.stacks:
            if lines and all(frame.is_of_library for frame in stack):
                continue
            lines.append("Another thread:" if lines else "Stack (most recent call first):")
            for of_library, frames in groupby(stack, key=lambda frame: frame.is_of_library):
                shown = [frame.line for frame in frames]
                count = "1 frame" if len(shown) == 1 else f"{len(shown)} frames"
                lines += [f"  ... {count} of libraries ..."] if of_library else shown
        return "\n".join(lines)


def parts_of(error: str) -> ErrorText:
    """Split an error into its parts."""
    cause, *outputs = _OUTPUT.split(error, maxsplit=1)
    output, stacks = without_stacks(outputs[0] if outputs else "")
    return ErrorText(cause, stacks, output)


def without_stacks(output: str) -> tuple[str, list[list[Frame]]]:
    """Return output without the stacks of threads in it, and these stacks."""
    if _STACK not in output:
        return output, []
    rest: list[str] = []
    stacks: list[list[Frame]] = []
    in_stack = False
    for line in output.splitlines():
        if line.endswith(_STACK) and _HEADER.match(line):
            stacks.append([])
            in_stack = True
        elif in_stack and (found := _FRAME.match(line)):
            stacks[-1].append(Frame(line, *found.groups()))
        elif not (in_stack and (line.startswith("  ") or not line)):
            rest.append(line)
            in_stack = False
    stacks.sort(key=lambda stack: not any(_is_call(frame) for frame in stack))
    users = [_above_call(stack) for stack in stacks]
    return "\n".join(rest), [stack for stack in users if stack and not any(frame.is_ours for frame in stack)]


def normalized(error: str | None) -> str:
    """Return an error without the details that differ between errors of a kind: numbers, quoted texts, paths.

    Examples
    --------
    >>> normalized("ValueError: seed 7 of 'iris' at 0x7f3a") == normalized("ValueError: seed 12 of 'wine' at 0x81bc")
    True
    """
    return "\n".join(
        _FOLDER.sub(r"\1", line) if _is_place(line) else without_details(line) for line in _relevant_lines(error)
    )


def without_details(line: str) -> str:
    """Return a line without numbers, quoted texts and paths."""
    line = _QUOTED.sub("'…'", line)
    if "/" in line:
        line = _WORD.sub(lambda word: "…" if "/" in word[0] else word[0], line)
    return _NUMBER.sub("…", line)


def cause_of(error: str) -> str:
    """Return the most informative line: in a traceback, the exception after the last place."""
    lines = [line for line in _relevant_lines(error) if line.strip()]
    places = [index for index, line in enumerate(lines) if _is_place(line)]
    behind = lines[places[-1] + 1 :] if places else lines
    return (behind or lines or ["no error text"])[0].strip()


def summary_of(error: str) -> str:
    r"""Return the cause in one line, and where the function was if its process was killed.

    Examples
    --------
    >>> summary_of('killed by SIGSEGV\nLast output:\nStack (most recent call first):\n  File "/a/x.py", line 3 in fit')
    'killed by SIGSEGV in fit (x.py:3)'
    """
    cause, place = cause_of(error), parts_of(error).place
    return cause if place is None else f"{cause.removesuffix(' and was killed')} in {place}"


def kind_of(error: str) -> str:
    r"""Return the class of the exception and the function that raised it, or the cause of a killed process.

    Examples
    --------
    >>> kind_of('Traceback (most recent call last):\n  File "/a/x.py", line 3, in load\nKeyError: 7')
    'KeyError in load'
    """
    frames = [Frame(line, *found.groups()) for line in _relevant_lines(error) if (found := _FRAME.match(line))]
    if not frames:
        return without_details(cause_of(error))
    own = [frame for frame in frames if not frame.is_of_library] or frames
    return f"{cause_of(error).partition(':')[0]} in {own[-1].function}"


def _relevant_lines(error: str | None) -> Iterator[str]:
    """Yield the places and the exception of a traceback, without the code between them."""
    for line in _OUTPUT.split(error or "", maxsplit=1)[0].splitlines():
        line = _MARGIN.sub("", line)
        if _is_place(line) or not line.startswith(" "):
            yield line


def _is_place(line: str) -> bool:
    return line.startswith("  File ")


def _place(stack: Sequence[Frame]) -> str:
    """Return the most recent frame of the user's own code; of a function that is installed, its first frame."""
    frame = next((frame for frame in stack if not frame.is_of_library), stack[-1])
    return f"{frame.function} ({re.split(_SEPARATOR, frame.file)[-1]}:{frame.number})"


def _is_call(frame: Frame) -> bool:
    """Return whether a frame calls the experiment function."""
    return frame.is_ours and frame.function == "run" and frame.file.endswith("worker.py")


def _above_call(stack: Sequence[Frame]) -> list[Frame]:
    """Return a stack without the frames of the library below the experiment function."""
    end = next((index for index, frame in enumerate(stack) if _is_call(frame)), len(stack))
    return list(stack[:end])


_SEPARATOR = r"[/\\]"
_OURS = re.compile(rf"{_SEPARATOR}pyexperimenter{_SEPARATOR}(?:execution|database|machine){_SEPARATOR}")
_LIBRARY = re.compile(
    rf"{_SEPARATOR}(?:site|dist)-packages{_SEPARATOR}|{_SEPARATOR}lib(?:64)?{_SEPARATOR}python\d|{_SEPARATOR}Lib{_SEPARATOR}"
    "|^<frozen "
)
_OUTPUT = re.compile(r"\n(?:Last output|The last that it printed):\n?")  # the latter in errors of earlier versions
_STACK = "(most recent call first):"
_HEADER = re.compile(r"(?:Stack|(?:Current t|T)hread 0x[0-9a-fA-F]+) ")
_FRAME = re.compile(r'  File "([^"]*)", line (\S+?),? in (.*)')
# The following need time linear in the length of the line, which may be megabytes.
_MARGIN = re.compile(r"^ +[|+][-+]* ?")  # of the parts of an exception group
_FOLDER = re.compile(r'^(  File ")[^"]*/')
_QUOTED = re.compile(r"""(?<!\w)[bru]{0,2}(?:'[^']*'|"[^"]*")""", re.I)  # not the apostrophe of "can't"
_WORD = re.compile(r"[^\s'\"(),:;=<>\[\]{}]+")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
