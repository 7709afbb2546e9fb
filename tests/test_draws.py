"""The counter: equal arguments, equal numbers; anything different, different numbers."""

import itertools

import numpy as np

from diffdpo.draws import Purpose, epoch_order, generator


def test_same_arguments_same_numbers_in_any_order():
    first = generator(3, Purpose.NOISE, 5, 7).standard_normal(8)
    generator(3, Purpose.FLIP, 5, 7).random(100)
    assert np.array_equal(first, generator(3, Purpose.NOISE, 5, 7).standard_normal(8))


def test_every_argument_changes_the_numbers():
    keys = itertools.product(
        [0, 1, 2**32], [Purpose.NOISE, Purpose.TIMESTEP], [0, 1, 2**40], [0, 1, 9]
    )
    seen = {generator(*key).integers(2**63) for key in keys}
    assert len(seen) == 3 * 2 * 3 * 3


def test_draws_of_neighbours_are_uncorrelated():
    noise = np.stack(
        [generator(0, Purpose.NOISE, pair, 0).standard_normal(4096) for pair in range(8)]
    )
    off_diagonal = np.corrcoef(noise) - np.eye(8)
    assert np.abs(off_diagonal).max() < 0.08  # 5 standard errors of 1/64


def test_numbers_are_pinned():
    """A change here would make every published run irreproducible."""
    assert generator(1, Purpose.NOISE, 2, 3).standard_normal(2).tolist() == [
        0.5486465782578828,
        -0.1677386938152409,
    ]
    assert epoch_order(5, 2, 6).tolist() == [2, 0, 3, 4, 1, 5]


def test_what_a_draw_is_for_keeps_its_number():
    """Part of every published result as well; new purposes come after these."""
    names = "ORDER TIMESTEP NOISE POSTERIOR_CHOSEN POSTERIOR_REJECTED FLIP CROP PROMPT_DROPOUT"
    names += " SAMPLE BOOTSTRAP LABEL_NOISE"
    assert [purpose.name for purpose in Purpose][:11] == names.split()
    assert [purpose.value for purpose in Purpose] == list(range(len(Purpose)))


def test_item_and_draw_count_from_zero():
    numbers = [generator(4, Purpose.CROP, *rest).random() for rest in ((), (0,), (0, 0))]
    assert len(set(numbers)) == 1


def test_numbers_beyond_64_bits_wrap_around():
    below = generator(-1, Purpose.NOISE, -2, -3).integers(2**63)
    top = 2**64
    assert below == generator(top - 1, Purpose.NOISE, top - 2, top - 3).integers(2**63)
    assert below == generator(2 * top - 1, Purpose.NOISE, 2 * top - 2, 2 * top - 3).integers(2**63)


def test_epoch_order_is_a_permutation_and_differs_by_epoch_and_seed():
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
