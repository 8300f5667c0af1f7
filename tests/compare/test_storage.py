from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

import topoloss
from topoloss.compare.storage import database, open_storage


@pytest.mark.parametrize("address", ["sqlite:////no/such/folder/study.db", "nonsense"])
def test_a_storage_that_cannot_be_opened_is_told(address):
    with pytest.raises(topoloss.InputError, match="cannot be opened"):
        open_storage(address, heartbeat=20)


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_a_trial_that_waits_is_taken_once(tmp_path):
    """Four workers, each with connections of its own, empty a queue."""

    def opened():
        return open_storage(database(tmp_path), heartbeat=20)

    queue = optuna.create_study(storage=opened(), study_name="queue")
    for k in range(40):
        queue.enqueue_trial({"x": k})
    workers = [optuna.load_study(study_name="queue", storage=opened()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = pool.map(lambda worker: [worker.ask().number for _ in range(10)], workers)
        assert sorted(number for numbers in taken for number in numbers) == list(range(40))
