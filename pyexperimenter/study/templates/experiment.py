"""The experiments of this study. Each call of the function executes one row of the table."""

import math
import random

from pyexperimenter import PyExperimenter


def estimate_pi(keyfields, result_processor, custom_fields):
    """Estimate pi as the mean of 4 * sqrt(1 - x^2) over points x in [0, 1]. Replace it with your own experiment.

    keyfields         the inputs of this row: {"method": "plain", "samples": 100, "strata": None, "seed": 0}
    result_processor  writes early results, and logs: result_processor.process_logs({"progress": {"step": 1}})
    custom_fields     the section Custom of the config
    """
    generator, samples = random.Random(keyfields["seed"]), keyfields["samples"]
    if keyfields["method"] == "plain":
        points = [generator.random() for _ in range(samples)]
    elif keyfields["method"] == "antithetic":
        half = [generator.random() for _ in range(samples // 2)]
        points = half + [1 - x for x in half]
    else:
        strata = keyfields["strata"]
        points = [(i % strata + generator.random()) / strata for i in range(samples)]
    estimate = sum(4 * math.sqrt(1 - x * x) for x in points) / len(points)
    return {"estimate": estimate, "deviation": abs(estimate - math.pi)}


if __name__ == "__main__":  # the same as `pyexperimenter fill` and `pyexperimenter run`
    experimenter = PyExperimenter()
    experimenter.fill_table_from_config()
    experimenter.execute(estimate_pi)
    print(experimenter.summarize("deviation", rows=["method", "strata"], columns="samples"))
