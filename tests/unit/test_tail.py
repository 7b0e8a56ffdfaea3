"""The end of an output is kept, as valid text within the limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyexperimenter.execution.supervision.tail import MAX_BYTES, Tail

PIECES = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 4000)), max_size=6)


@given(PIECES)
def test_the_end_is_kept_as_text_that_fits(pieces: list[tuple[bytes, int]]) -> None:
    tail = Tail()
    printed = b""
    for piece, times in pieces:
        tail.add(piece * times)
        printed += piece * times
    text = tail.text()
    if not printed:
        assert text is None
        return
    assert text is not None
    assert "\0" not in text
    assert len(text.encode()) <= MAX_BYTES
    whole = printed.decode(errors="replace").replace("\0", "\\0")
    if len(whole.encode()) <= MAX_BYTES and len(printed) <= MAX_BYTES:
        assert text == whole
    else:
        mark, _, end = text.partition("\n")
        assert mark.endswith("bytes left out ...")
        assert whole.endswith(end[4:]), "a letter that was cut in two may differ at the beginning"
        assert len(end.encode()) > MAX_BYTES - 200


def test_nothing_is_left_after_clear() -> None:
    tail = Tail()
    tail.add(b"x" * 200_000)
    tail.clear()
    assert tail.text() is None
    tail.add(b"y")
    assert tail.text() == "y"
