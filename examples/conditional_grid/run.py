"""Compare algorithms that have different hyperparameters, in one table: 3 data sets x (18 settings and a baseline).

The database is conditional_grid.db in the working directory. A second run executes only new and open experiments.
"""

from functools import partial
from pathlib import Path

from sklearn import datasets
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.analysis import summarize, to_markdown

LOADERS = {
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
ALGORITHMS = {
    "knn": KNeighborsClassifier,
    "random_forest": partial(RandomForestClassifier, n_estimators=30, random_state=0),
    "logistic_regression": partial(LogisticRegression, max_iter=1000),
    "baseline": DummyClassifier,
}
HYPERPARAMETERS = ["weights", "n_neighbors", "max_features", "max_depth", "C"]


def cross_validate(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: an algorithm with one setting on one data set."""
    x, y = LOADERS[keyfields["dataset"]](return_X_y=True)
    settings = {name: keyfields[name] for name in HYPERPARAMETERS if keyfields[name] is not None}
    model = make_pipeline(StandardScaler(), ALGORITHMS[keyfields["algorithm"]](**settings))
    return {"score": cross_val_score(model, x, y, scoring=keyfields["metric"], cv=custom_fields["folds"]).mean()}


def main() -> None:
    experimenter = PyExperimenter(Path(__file__).with_name("config.yml"))
    experimenter.fill_table_from_config()
    experimenter.execute(cross_validate)

    table = experimenter.get_table()
    print("Number of settings")
    print(table.groupby(["algorithm", "dataset"]).size().unstack().to_string())

    # There is no test part, so the score that chooses is also the one that is shown. The note says so.
    best = experimenter.select(by=["dataset", "algorithm"], on="score", report="score", optimistic=True)
    summary = summarize(best, "score", rows="algorithm", columns=["dataset", "metric"], stat="mean")
    print("\nScore of the best setting; the best algorithm on each data set is in bold")
    print(to_markdown(summary, best="max", best_per="column"))

    print("\nBest settings")
    for algorithm, rows in best[best["algorithm"] != "baseline"].groupby("algorithm"):
        print(f"\n{algorithm}")
        settings = rows.set_index("dataset")[HYPERPARAMETERS].dropna(axis="columns")
        print(settings.sort_index().to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
