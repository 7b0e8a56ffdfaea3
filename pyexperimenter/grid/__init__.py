"""The grid of experiments: domains, conditions and exclusions expanded to rows. No database, clock or environment."""

from pyexperimenter.grid.blocks import Design, block_seed
from pyexperimenter.grid.combinations import Combinations
from pyexperimenter.grid.grid import Domain, Grid
from pyexperimenter.grid.ranges import Lazy, sampled, spaced, stepped

__all__ = ["Combinations", "Design", "Domain", "Grid", "Lazy", "block_seed", "sampled", "spaced", "stepped"]
