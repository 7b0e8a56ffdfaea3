"""The grid of experiments: domains, conditions and exclusions expanded to rows. No database, clock or environment."""

from pyexperimenter.grid.combinations import Combinations
from pyexperimenter.grid.grid import Domain, Grid
from pyexperimenter.grid.ranges import Lazy, sampled, spaced, stepped

__all__ = ["Combinations", "Domain", "Grid", "Lazy", "sampled", "spaced", "stepped"]
