"""The stream of positions does not depend on how it is cut."""

import os
import signal

import pytest

from diffdpo.engine.batches import Rows, Stream, positions, step_batches
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError


class Numbers(Rows):
    fingerprint = "numbers"

    def __len__(self):
        return 10

    def read(self, row, visit):
        return row, visit


def seen(start, steps, micro, accumulation, world):
    """The positions of each step, over all processes."""
    cuts = [
        list(positions(start, steps, micro, accumulation, rank, world)) for rank in range(world)
    ]
    spans = [slice(s * accumulation, (s + 1) * accumulation) for s in range(steps - start)]
    grouped = [[p for cut in cuts for batch in cut[step] for p in batch] for step in spans]
    return [sorted(step) for step in grouped]


@pytest.mark.parametrize(
    ("micro", "accumulation", "world"), [(4, 1, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2)]
)
def test_every_cut_sees_the_same_steps(micro, accumulation, world):
    assert seen(0, 5, micro, accumulation, world) == [
        list(range(4 * s, 4 * s + 4)) for s in range(5)
    ]


def test_a_later_start_sees_the_rest():
    assert seen(3, 5, 2, 2, 1) == seen(0, 5, 2, 2, 1)[3:]


def test_an_epoch_visits_every_row_once_and_batches_cross_its_end():
    stream = Stream(Numbers(), seed=1)
    items = [stream[p] for p in range(20)]
    assert sorted(items[:10]) == [(row, 0) for row in range(10)]
    assert sorted(items[10:]) == [(row, 1) for row in range(10)]
    assert [row for row, _ in items[:10]] != [row for row, _ in items[10:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    groups = step_batches(Stream(Numbers(), 0), positions(0, 6, 3, 2, 0, 1), list, 2, workers)
    flat = [item for group in groups for batch in group for item in batch]
    assert flat == [Stream(Numbers(), 0)[p] for p in range(36)]


class Broken(Numbers):
    def read(self, row, visit):
        if visit == 1:
            raise UserError("row 3 is no picture", "nor is row 4")
        return row, visit


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_data_arrives_as_it_was_told(workers):
    """Not as the traceback of a worker, and only when its step has come."""
    groups = step_batches(Stream(Broken(), 0), positions(0, 6, 5, 1, 0, 1), list, 1, workers)
    assert len([next(groups), next(groups)]) == 2
    with pytest.raises(UserError) as caught:
        next(groups)
    assert caught.value.mistakes == ("row 3 is no picture", "nor is row 4")


class Killed(Numbers):
    def read(self, row, visit):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_one_line():
    groups = step_batches(Stream(Killed(), 0), positions(0, 1, 2, 1, 0, 1), list, 1, workers=1)
    with pytest.raises(UserError, match=r"reads data is gone .*--dataloader_num_workers"):
        next(groups)


@pytest.mark.parametrize(("device", "count"), [("cpu", 0), ("cuda", 2), ("mps", 2)])
def test_data_are_read_by_workers_where_a_gpu_would_wait(device, count):
    assert TrainSettings().workers_on(device) == count
    assert TrainSettings(dataloader_num_workers=0).workers_on(device) == 0
    assert TrainSettings(dataloader_num_workers=5).workers_on(device) == 5
