"""Gaps, noise and masks beside pictures, as data: what is read, told apart and refused."""

import pytest

from diffdpo.cli import run_command
from diffdpo.errors import UserError
from diffdpo.image.pictures.side_columns import SideSettings
from tests.commands.image_runs import flags
from tests.factory import make_pairs
from tests.image.side_rows import LEFT, SCORES, SEEDS, mask_of, pairs_of, rows_of

# Gaps


def test_the_gap_is_the_chosen_score_minus_the_rejected_one_scaled():
    pairs = pairs_of(rows_of(**SCORES), SideSettings("score", 3.0))
    for row in range(len(pairs)):
        item = pairs.read(row, 0)
        first_wins = pairs.first_wins[item.pair] == 1
        gap = 3 * (0.5 * item.pair - 1.0)
        assert item.beside.gap == pytest.approx(gap if first_wins else -gap)
    assert {pairs.first_wins[row] for row in pairs.rows} == {0.0, 1.0}  # both cases were met


def test_labels_tossed_by_coin_toss_the_gaps_as_well():
    """The control must not learn the preference through the scores."""
    pairs = pairs_of(rows_of(40, **SCORES), SideSettings("score"), random_labels=True)
    items = [pairs.read(row, 0) for row in range(len(pairs))]
    assert all(item.beside.gap >= 0 for item in items)
    assert [item.beside.gap for item in items] == pytest.approx(
        [abs(0.5 * i - 1) for i in range(40)]
    )


# What is not there, or cannot be used


def test_other_scores_seeds_or_masks_are_other_data():
    def fingerprint(beside, **columns):
        return pairs_of(rows_of(**{**SCORES, **SEEDS, **LEFT, **columns}), beside).fingerprint

    plain = fingerprint(SideSettings())
    assert plain == fingerprint(SideSettings(), score_0=lambda i: 9.0)
    for beside, column, other in (
        (SideSettings("score"), "score_0", lambda i: 9.0),
        (SideSettings(noise=True), "seed_1", lambda i: 9),
        (SideSettings(mask="mask"), "mask", lambda i: mask_of((0, 0, 32, 16))),
    ):
        with_it = fingerprint(beside)
        assert len({plain, with_it, fingerprint(beside, **{column: other})}) == 3


@pytest.mark.parametrize(
    ("beside", "columns", "line"),
    [
        (
            SideSettings("score"),
            {},
            "no columns score_0 and score_1, or chosen_score and rejected_",
        ),
        (
            SideSettings("score"),
            {**SCORES, "score_1": lambda i: None},
            "column score_1, row 0: 6 of 6",
        ),
        (SideSettings(noise=True), {}, "--given_noise: no column seed_0; make_pairs writes it"),
        (
            SideSettings(noise=True),
            {**SEEDS, "seed_1": lambda i: -1},
            "column seed_1, row 0: -1 is no seed",
        ),
        (SideSettings(noise=True), {**SEEDS, "seed_0": lambda i: 0.5}, "row 0: 0.5 is no seed"),
        (SideSettings(mask="region"), LEFT, "--mask_column region: no such column, nor region_0"),
    ],
)
def test_columns_that_are_not_there_or_broken_are_one_line(beside, columns, line):
    with pytest.raises(UserError) as caught:
        pairs_of(rows_of(**columns), beside)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda i: mask_of((0, 0, 4, 4), (16, 32)), "its mask is 16 x 32, its picture 32 x 32"),
        (lambda i: mask_of((0, 0, 0, 0)), "its mask has nothing white"),
        (lambda i: b"no picture", "column mask: in no image format"),
    ],
)
def test_a_mask_that_cannot_be_used_makes_its_row_unreadable(make, line):
    pairs = pairs_of(rows_of(mask=make), SideSettings(mask="mask"))
    with pytest.raises(UserError) as caught:
        pairs.check(quiet=True)
    assert "6 of 6 pairs are unreadable" in str(caught.value)
    assert line in str(caught.value)


def test_noise_of_another_size_than_the_training_is_refused():
    pairs = pairs_of(rows_of(**SEEDS), SideSettings(noise=True), resolution=16)
    with pytest.raises(UserError, match="row 0 has a picture of 32 x 32, trained at 16"):
        pairs.check(quiet=True)


def test_given_noise_excludes_what_changes_noise(tmp_path, capsys):
    words = flags(None, None, tmp_path / "run", given_noise=True, noise_offset=0.1)
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 2
    assert "--given_noise takes the noise as it was" in capsys.readouterr().err


def test_capo_on_data_without_scores_is_one_line(models, tmp_path, capsys):
    data = make_pairs(tmp_path / "data", 4)
    words = [str(word) for word in flags(models(), data, tmp_path / "run", loss_type="capo")]
    assert run_command("train_diffusion_dpo", words) == 2
    assert "--score_column" in capsys.readouterr().err
