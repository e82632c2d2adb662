import pickle

import pytest

from hep_shared.errors import CheckpointError, ConfigError, InputFileError, TrainingError, UserError


def test_input_file_error_is_one_sentence_with_place_and_remedy():
    error = InputFileError("a.root", "is not finite", "remove the event.", branch="npho", entry=7)
    assert str(error) == "a.root, branch 'npho', entry 7: is not finite; remove the event."
    assert (error.path, error.branch, error.entry) == ("a.root", "npho", 7)


def test_input_file_error_survives_another_process():
    error = InputFileError("a.root", "is empty", "make it again", branch="time", entry=0)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.path, copy.branch, copy.entry) == ("a.root", "time", 0)
    # A DataLoader rebuilds the exception from its type and one message.
    assert str(InputFileError("Caught it in worker 0.")) == "Caught it in worker 0."


@pytest.mark.parametrize("kind", [ConfigError, TrainingError, CheckpointError, InputFileError])
def test_every_error_of_the_house_is_a_user_error(kind):
    assert issubclass(kind, UserError)
