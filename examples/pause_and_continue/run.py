"""Train networks ten epochs at a time: run this three times, and each run continues where the last one paused.

When all are trained, the test accuracy of the best one is added to its row. The database is pause_and_continue.db in
the working directory, and the networks are in its subdirectory checkpoints.
"""

from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from pyexperimenter import ExperimentStatus, PyExperimenter, ResultProcessor


def load_data() -> dict:
    """Return x and y of the training, validation and test data."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)
    x_train, x_valid, y_train, y_valid = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return {"train": (x_train, y_train), "validation": (x_valid, y_valid), "test": (x_test, y_test)}


def train_a_portion(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> ExperimentStatus:
    """Run one portion of an experiment. Its results and logs are kept, and the next portion adds to them."""
    data = load_data()
    checkpoint = Path(custom_fields["checkpoints"]) / f"{result_processor.experiment_id}.joblib"
    if checkpoint.exists():
        network, trained = joblib.load(checkpoint)
    else:
        size = (keyfields["hidden_units"],)
        network, trained = MLPClassifier(hidden_layer_sizes=size, alpha=keyfields["alpha"], random_state=0), 0

    first, last = trained + 1, min(trained + custom_fields["epochs_of_a_portion"], custom_fields["epochs"])
    while trained < last:
        network.partial_fit(*data["train"], classes=range(10))
        trained += 1
        if result_processor.stop_requested:  # Ctrl-C, or the end of a cluster job
            break

    checkpoint.parent.mkdir(exist_ok=True)
    joblib.dump((network, trained), checkpoint)
    accuracy = network.score(*data["validation"])
    result_processor.process_results({"epochs": trained, "validation_accuracy": accuracy})
    row = {"first_epoch": first, "last_epoch": trained, "validation_accuracy": accuracy}
    result_processor.process_logs({"portions": row})
    return ExperimentStatus.DONE if trained == custom_fields["epochs"] else ExperimentStatus.PAUSED


def main() -> None:
    experimenter = PyExperimenter(Path(__file__).with_name("config.yml"))
    experimenter.fill_table_from_config()

    paused = experimenter.get_table(where={"status": "paused"})["ID"]
    experimenter.execute(train_a_portion)  # runs open experiments, not paused ones
    for experiment_id in paused:
        experimenter.unpause_experiment(experiment_id, train_a_portion)

    def test(result_processor: ResultProcessor) -> None:
        checkpoints = Path(experimenter.config.custom["checkpoints"])
        network, _ = joblib.load(checkpoints / f"{result_processor.experiment_id}.joblib")
        result_processor.process_results({"test_accuracy": network.score(*load_data()["test"])})

    table = experimenter.get_table()
    if (table["status"] == "done").all():
        best = table.loc[table["validation_accuracy"].idxmax()]
        experimenter.attach(test, int(best["ID"]))  # writes to the row without executing it again

    columns = ["hidden_units", "alpha", "status", "epochs", "validation_accuracy", "test_accuracy"]
    print(experimenter.get_table(columns=columns).to_string(index=False, na_rep="", float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
