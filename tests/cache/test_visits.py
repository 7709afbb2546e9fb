"""Which score belongs to which visit, and which are computed at all."""

from dataclasses import dataclass

import pytest

from diffdpo.cache.scores import RowsWithScores
from diffdpo.cache.visits import OneVisit, RunVisits, Visited
from diffdpo.engine.batches import Rows, Stream


@dataclass(frozen=True)
class Item:
    row: int
    visit: int
    reference: tuple | None = None


class Numbers(Rows):
    fingerprint = "numbers"

    def __len__(self):
        return 7

    def read(self, row, visit):
        return Item(row, visit)


@pytest.mark.parametrize(
    ("draws", "positions", "count"), [(3, 100, 21), (3, 21, 21), (16, 18, 18), (1, 5, 5)]
)
def test_only_visits_of_the_run_have_a_place_and_each_draw_one(draws, positions, count):
    rows = Numbers()
    visits = RunVisits(rows, 5, draws, positions)
    assert len(visits) == count
    stream = Stream(rows, 5)
    for place in range(count):
        epoch, row = stream.at(place)
        assert visits.at(place) == (row, epoch)
        assert visits.place(row, epoch) == place


def test_every_visit_of_a_run_reads_the_score_of_its_own_draw():
    rows, draws, positions = Numbers(), 2, 40
    visits = RunVisits(rows, 5, draws, positions)
    reader = Visited(rows, visits)
    scores = [
        {"scores": [10 * item.row + item.visit, 0]}
        for item in (reader[place] for place in range(len(visits)))
    ]
    stream = Stream(RowsWithScores(rows, scores, visits), 5)
    for position in range(positions):
        item = stream[position]
        assert item.visit == position // 7 % draws
        assert item.reference == (10 * item.row + item.visit, 0)


def test_rows_without_draws_have_one_score_in_their_own_order():
    visits = OneVisit(Numbers())
    assert len(visits) == 7
    assert [visits.at(place) for place in range(7)] == [(row, 0) for row in range(7)]
    assert visits.place(4, 0) == 4
