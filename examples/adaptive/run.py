"""Search C and gamma of an SVM from coarse to fine: each round tries the neighbors of the best experiments so far.

The database is adaptive.db in the working directory. A second run takes the same path and executes nothing.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from pyexperimenter import PyExperimenter, ResultProcessor

LOADERS = {"breast_cancer": datasets.load_breast_cancer, "iris": datasets.load_iris, "wine": datasets.load_wine}
STEPS = [4, 2, 1, 0.5]  # in the exponents, one per round


def cross_validate(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: the accuracy of an SVM with this C and gamma."""
    x, y = LOADERS[keyfields["dataset"]](return_X_y=True)
    svm = SVC(C=2 ** keyfields["log2_C"], gamma=2 ** keyfields["log2_gamma"])
    return {"accuracy": cross_val_score(make_pipeline(StandardScaler(), svm), x, y, cv=custom_fields["folds"]).mean()}


def coarse_grid(step: float) -> list[dict]:
    """Return the rows of the first round, which cover the whole range."""
    grid = product(LOADERS, np.arange(-5, 15.1, step), np.arange(-15, 3.1, step))
    return [{"dataset": dataset, "log2_C": c, "log2_gamma": gamma} for dataset, c, gamma in grid]


def best_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the best experiment on each data set; among equals, the smoothest."""
    ranked = table.sort_values(["accuracy", "log2_C", "log2_gamma"], ascending=[False, True, True])
    return ranked.drop_duplicates("dataset").sort_values("dataset")


def around(best: pd.DataFrame, step: float) -> list[dict]:
    """Return the best experiments and their neighbors; the fill skips those that exist."""
    return [
        {"dataset": row.dataset, "log2_C": row.log2_C + right, "log2_gamma": row.log2_gamma + up}
        for row in best.itertuples()
        for right, up in product([-step, 0, step], repeat=2)
    ]


def main() -> None:
    experimenter = PyExperimenter(Path(__file__).with_name("config.yml"), log_level="WARNING")
    rows: list[dict] = []
    best = None
    for step in STEPS:
        rows += coarse_grid(step) if best is None else around(best, step)
        added, skipped = experimenter.fill_table_with_rows(rows)
        print(f"step {step}: {added} experiments added, {skipped} existed")
        experimenter.execute(cross_validate)
        # Only these rows count, so that the path is the same if later rounds exist already.
        best = best_of(experimenter.get_table().merge(pd.DataFrame(rows)))

    columns = ["dataset", "log2_C", "log2_gamma", "accuracy"]
    print(f"\nBest of {sum(experimenter.counts().values())} experiments")
    print(best[columns].to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
