import time

import torch

from hep_shared.config import StrictModel
from hep_shared.distributed import World
from hep_shared.loop import Cursor, open_run, timed
from hep_shared.run import RunDir


class Config(StrictModel):
    seed: int = 0


def test_a_cursor_comes_back_from_its_state() -> None:
    cursor = Cursor(epoch=2, batch=3, step=19, loss_sum=0.5)
    again = Cursor()
    again.load_state_dict(cursor.state_dict())
    assert again == cursor


def test_waiting_is_timed_and_work_is_not() -> None:
    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    found = []
    for seconds, number in timed(slow()):
        time.sleep(0.05)
        found.append((number, seconds >= 0.02))
    assert found == [(0, True), (1, True), (2, True)]


def test_rank_0_begins_the_run_and_the_others_open_it(tmp_path) -> None:
    ranks = [World(rank, 1, 0, torch.device("cpu")) for rank in (0, 1)]
    opened = [
        open_run(Config(), rank, out=tmp_path / "run", resume=False, command="c", sinks=()) for rank in ranks
    ]
    assert [type(run) for run in opened] == [RunDir, RunDir]
    assert opened[1].config["seed"] == 0
