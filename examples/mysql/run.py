"""At which share of occupied sites does a square lattice percolate? 4 sizes x 5 shares x 20 seeds, on a server.

Start it on as many machines as you like: they share the open rows. Each prints the results so far when it has finished.
"""

import random
from pathlib import Path

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.analysis import to_markdown


def percolate(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: does a path of occupied sites lead from the top of a random lattice to its bottom?"""
    size, generator = keyfields["size"], random.Random(keyfields["seed"])
    unvisited = {
        (row, column) for row in range(size) for column in range(size) if generator.random() < keyfields["occupied"]
    }
    percolates, largest = False, 0
    while unvisited:
        border, cluster = [unvisited.pop()], []
        while border:
            row, column = border.pop()
            cluster.append(row)
            neighbors = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & unvisited
            unvisited -= neighbors
            border += neighbors
        percolates = percolates or (min(cluster) == 0 and max(cluster) == size - 1)
        largest = max(largest, len(cluster))
    return {"percolates": percolates, "largest_cluster": largest / size**2}


def main() -> None:
    here = Path(__file__).parent
    experimenter = PyExperimenter(here / "config.yml", here / "database_credentials.yml")
    experimenter.create_table(create_database=True)  # needs the right to create databases if it is missing
    experimenter.fill_table_from_config()
    experimenter.execute(percolate, wait=True)  # for what others are executing, too

    print(experimenter.counts())
    summary = experimenter.summarize("percolates", rows="size", columns="occupied", stat="mean")
    print("\nShare of the lattices that percolate; for infinite lattices it jumps from 0 to 1 at 0.593")
    print(to_markdown(summary, digits=2))


if __name__ == "__main__":
    main()
