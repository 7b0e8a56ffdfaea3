"""How fast does a neural network learn? Training curves for 2 solvers x 2 learning rates x 3 seeds.

The database is training_curves.db in the working directory, the figure curves.png.
"""

from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from pyexperimenter import PyExperimenter, ResultProcessor


def train_network(keyfields: dict, result_processor: ResultProcessor, custom_fields: dict) -> dict:
    """Run one experiment: train a network on handwritten digits, and write a row to the logtable after each epoch."""
    seed = keyfields["seed"]
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=0.3, random_state=seed, stratify=y)
    solver, learning_rate = keyfields["solver"], keyfields["learning_rate"]
    network = MLPClassifier(solver=solver, learning_rate_init=learning_rate, random_state=seed)

    accuracies = []
    for epoch in range(1, custom_fields["epochs"] + 1):
        network.partial_fit(x_train, y_train, classes=range(10))
        accuracies.append(network.score(x_test, y_test))
        row = {"epoch": epoch, "train_loss": network.loss_, "test_accuracy": accuracies[-1]}
        result_processor.process_logs({"epochs": row})

    # A list of rows is written in one statement.
    matrix = confusion_matrix(y_test, network.predict(x_test))
    mistakes = [
        {"truth": truth, "prediction": prediction, "samples": matrix[truth, prediction]}
        for truth in range(10)
        for prediction in range(10)
        if truth != prediction and matrix[truth, prediction] > 0
    ]
    result_processor.process_logs({"confusions": mistakes})

    return {"test_accuracy": accuracies[-1], "best_epoch": accuracies.index(max(accuracies)) + 1}


def main() -> None:
    experimenter = PyExperimenter(Path(__file__).with_name("config.yml"))
    experimenter.fill_table_from_config()
    experimenter.execute(train_network)

    # Each row of a logtable has the ID of its experiment. A join with the table adds the keyfields.
    inputs = experimenter.get_table(columns=["ID", "solver", "learning_rate", "seed"])
    epochs = experimenter.get_logtable("epochs").merge(inputs, left_on="experiment_id", right_on="ID")
    curves = epochs.pivot_table(index="epoch", columns=["solver", "learning_rate"], values="test_accuracy")
    print("Mean test accuracy by epoch")
    print(curves.iloc[[0, 1, 4, 9, -1]].to_string(float_format="{:.3f}".format))

    mistakes = experimenter.get_logtable("confusions").groupby(["truth", "prediction"])["samples"].sum()
    print("\nThe digits that are confused most often, over all experiments")
    print(mistakes.nlargest(3).to_string())

    axes = experimenter.plot_curves("epochs", "test_accuracy", index="epoch", hue=["solver", "learning_rate"])
    axes.figure.savefig("curves.png")
    print("\nThe plot of the curves, with bands of their 95 % intervals, is in curves.png")


if __name__ == "__main__":
    main()
