"""How hard are random 3-SAT formulas for WalkSAT? 2 sizes x 7 ratios x 20 seeds, executed by a SLURM array.

python run.py fill         once, on the login node
sbatch array.sbatch        each task runs: python run.py work
python run.py show         at any time
"""

import argparse
import random
from pathlib import Path

from pyexperimenter import PyExperimenter, ResultProcessor


def walksat(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: flip variables of unsatisfied clauses until all are satisfied or the flips are used up."""
    generator = random.Random(keyfields["seed"])
    variables = range(1, keyfields["variables"] + 1)
    clauses = [
        [variable * generator.choice([-1, 1]) for variable in generator.sample(variables, 3)]
        for _ in range(round(keyfields["ratio"] * len(variables)))
    ]
    true = {variable * generator.choice([-1, 1]) for variable in variables}  # literals: 5, or -5 for "not 5"
    for flips in range(custom_fields["max_flips"]):
        failing = [clause for clause in clauses if true.isdisjoint(clause)]
        if not failing:
            return {"solved": True, "flips": flips}
        clause = generator.choice(failing)
        if generator.random() < 0.5:
            literal = generator.choice(clause)
        else:  # the one that fewest other clauses depend on
            alone = [held.pop() for other in clauses if len(held := true.intersection(other)) == 1]
            literal = min(clause, key=lambda literal: alone.count(-literal))
        true.remove(-literal)
        true.add(literal)
    return {"solved": False, "flips": custom_fields["max_flips"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fill", "work", "show"])
    parser.add_argument("--max-experiments", type=int, default=-1, help="limit for this task")
    options = parser.parse_args()

    here = Path(__file__).parent
    experimenter = PyExperimenter(here / "config.yml", here / "database_credentials.yml")
    if options.command == "fill":
        experimenter.create_table(create_database=True)
        print(experimenter.fill_table_from_config())
    elif options.command == "work":
        # Returns when nothing is open, or when the rest of the job is probably too short for another experiment.
        experimenter.execute(walksat, max_experiments=options.max_experiments, random_order=True)
    else:
        print(experimenter.counts())
        done = experimenter.get_table(where={"status": "done"})
        if not done.empty:
            shares = done.groupby(["ratio", "variables"])["solved"].mean().unstack()
            print(shares.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
