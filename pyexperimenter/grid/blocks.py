"""Blocks: the experiments that are compared with each other, and random numbers that they share.

All of a block differs only in what is compared, such as the method; a block is one data set and seed, for example. If
a grid is filled and executed block after block, then what is done at any time is a valid paired comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyexperimenter.jsonable import to_json


@dataclass(frozen=True)
class Design:
    """How a grid is divided into blocks.

    Attributes
    ----------
    blocks : tuple of str
        Keyfields whose combinations are the blocks.
    compare : tuple of str
        Keyfields whose values are compared within a block: the innermost ones of the grid. Others that are not in
        `blocks`, such as hyper-parameters, are between the two.
    shuffle : int or None
        Seed of the order of the blocks; None keeps that of the grid.
    """

    blocks: tuple[str, ...]
    compare: tuple[str, ...] = ()
    shuffle: int | None = 0

    def place(self, block: Mapping[str, Any]) -> bytes:
        """Return where a block is in the random order: the order of these bytes.

        It depends on nothing but the seed and the block, so that the blocks which a grid had keep their order when
        others are added.
        """
        return _digest(block, ["place", self.shuffle])


def block_seed(block: Mapping[str, Any], stream: str) -> int:
    """Return the seed of a stream of random numbers that all experiments of a block share.

    Parameters
    ----------
    block : Mapping of str to object
        Keyfield -> value, for the keyfields of the blocks.
    stream : str
        What the numbers are for, such as ``"split"``. The seeds of two streams are independent.

    Returns
    -------
    int
        From 0 to 2**32 - 1. It is the same on each machine and with each version of the library.

    Notes
    -----
    Common random numbers: methods that are compared on the same splits and initial values differ less by chance, as
    far as their results are correlated (Law, 2015, *Simulation Modeling and Analysis*, section 11.2).

    Examples
    --------
    >>> block_seed({"dataset": "iris", "seed": 1}, "split"), block_seed({"seed": 1.0, "dataset": "iris"}, "split")
    (1338414003, 1338414003)
    """
    return int.from_bytes(_digest(block, ["seed", stream])[:4], "big")


def _digest(block: Mapping[str, Any], purpose: list[Any]) -> bytes:
    """Return a hash of the names and values; 1 and 1.0 are the same value."""
    values = {name: _canonical(value) for name, value in block.items()}
    return hashlib.sha256(to_json([*purpose, values]).encode()).digest()


def _canonical(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
