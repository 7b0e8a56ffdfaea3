"""Which SVM kernel suits which data set? 4 data sets x 4 kernels and their settings x 5 seeds, with 2 workers.

The database is svm_study.db in the working directory. Each run starts with an empty table, so that the demo always
shows the same. With --continue it keeps the table and executes only open experiments.
"""

import argparse
import time
from pathlib import Path

from sklearn import datasets
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tabulate import tabulate

from pyexperimenter import PyExperimenter, ResultProcessor
from pyexperimenter.analysis import compare, summarize, to_latex, to_markdown

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def train_svm(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: take the keyfields of a row, and return a value for each resultfield."""
    x, y = LOADERS[keyfields["dataset"]](return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=custom_fields["test_share"], random_state=keyfields["seed"], stratify=y
    )

    # gamma and degree are None for kernels that do not have them: leave those to scikit-learn.
    names = ("kernel", "C", "gamma", "degree")
    parameters = {name: keyfields[name] for name in names if keyfields[name] is not None}
    model = make_pipeline(StandardScaler(), SVC(**parameters))

    cv_accuracy = cross_val_score(model, x_train, y_train, cv=custom_fields["folds"]).mean()
    started = time.perf_counter()
    model.fit(x_train, y_train)
    fit_seconds = time.perf_counter() - started
    predicted = model.predict(x_test)

    recalls = recall_score(y_test, predicted, average=None)
    rows = [
        {"label": label, "recall": recall, "test_samples": (y_test == label).sum()}
        for label, recall in enumerate(recalls)
    ]
    result_processor.process_logs({"classes": rows})

    return {
        "cv_accuracy": cv_accuracy,
        "accuracy": accuracy_score(y_test, predicted),
        "f1": f1_score(y_test, predicted, average="macro"),
        "fit_seconds": fit_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--continue", dest="keep", action="store_true", help="keep the table of the previous run")
    options = parser.parse_args()

    experimenter = PyExperimenter(Path(__file__).with_name("config.yml"))
    if not options.keep:
        experimenter.delete_table()  # only for the demo: your own study should keep its results
    experimenter.fill_table_from_config()
    experimenter.execute(train_svm)

    print("\nExperiments by status")
    print(tabulate(experimenter.counts().items(), headers=["status", "experiments"]))

    best = experimenter.select(by=["dataset", "kernel", "seed"], on="cv_accuracy", report="accuracy")
    attempts = experimenter.get_attempts()
    summary = summarize(best, "accuracy", rows="dataset", columns="kernel", stat="mean±ci95", attempts=attempts)
    print("\nTest accuracy of the setting with the best cross-validated accuracy; the best of each row is in bold")
    print(to_markdown(summary, best="max"))

    print("\nDo the kernels differ over data sets?\n")
    comparison = compare(best, "accuracy", by="kernel", blocks="dataset", attempts=attempts)
    print(comparison)
    print(f"\nThe same for a paper\n\n{comparison.describe()}")

    print("\nThe classes with the worst recall")
    classes = experimenter.get_logtable("classes").merge(best, left_on="experiment_id", right_on="ID")
    recalls = classes.groupby(["dataset", "kernel", "label"], as_index=False)["recall"].mean().nsmallest(3, "recall")
    print(tabulate(recalls, headers="keys", showindex=False, floatfmt=".3f"))

    print("\nThe table as LaTeX")
    print(to_latex(summary, best="max"))
    print(f"\nAll rows are in {experimenter.config.database.database}")


if __name__ == "__main__":
    main()
