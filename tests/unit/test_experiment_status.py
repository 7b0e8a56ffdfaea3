"""The states of an experiment are strings, also when formatted, pickled or written as JSON."""

import json
import pickle

import pytest

from pyexperimenter.experiment_status import ExperimentStatus


def test_the_states_are_those_of_the_predecessor():
    assert [status.value for status in ExperimentStatus] == ["created", "running", "done", "error", "paused", "all"]
    assert [status.name for status in ExperimentStatus] == ["CREATED", "RUNNING", "DONE", "ERROR", "PAUSED", "ALL"]


@pytest.mark.parametrize("status", ExperimentStatus)
def test_a_status_is_its_string(status):
    assert status == status.value
    assert ExperimentStatus(status.value) is status
    assert {status.value: 1}[status] == 1
    assert str(status) == f"{status}" == "%s" % status == json.loads(json.dumps(status)) == status.value  # noqa: UP031
    assert pickle.loads(pickle.dumps(status)) is status


def test_there_are_no_other_states():
    with pytest.raises(ValueError, match="finished"):
        ExperimentStatus("finished")
    assert ExperimentStatus.DONE != "DONE"
