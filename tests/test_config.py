"""Strict settings: every mistake is named, nothing is guessed."""

from dataclasses import FrozenInstanceError
from typing import get_args, get_type_hints

import pytest

from diffdpo.cli import COMMANDS, settings_class
from diffdpo.config import Layer, parse, read_yaml
from diffdpo.engine.settings import TrainSettings
from diffdpo.flags import flag
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from diffdpo.words import inner
from tests.toy import Toy, mistakes


def test_flags_override_the_file_and_the_file_overrides_the_base(tmp_path, monkeypatch):
    base, given = tmp_path / "base.yaml", tmp_path / "given.yaml"
    base.write_text("count: 10\nrate: 1e-3\nnames: [x, y]\n")
    given.write_text("rate: 2e-3\nloud: true\n")
    layer = Layer(str(base), read_yaml(str(base)))
    monkeypatch.setattr(Toy, "beneath", classmethod(lambda cls, given: layer))
    settings, _ = parse(Toy, ["--config", str(given), "--count", "7"])
    assert settings == Toy(count=7, rate=2e-3, names=["x", "y"], loud=True)


def test_aliases_and_inert_flags():
    settings, notices = parse(Toy, ["--who", "b", "c", "--old_flag", "whatever", "--loud"])
    assert settings.names == ["b", "c"]
    assert notices == ["--old_flag: it does nothing"]


def test_all_mistakes_at_once():
    found = mistakes("--count", "many", "--rate", "fast", "--loud", "perhaps", "--nmaes", "z")
    assert len(found) == 4
    assert any("did you mean --names" in line for line in found)
    assert any("--count" in line and "'many'" in line for line in found)


def test_impossible_values_are_named():
    assert mistakes("--count", "0") == ("--count must be positive",)


def test_a_stray_word_is_a_mistake():
    assert "stray" in mistakes("word")[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_batch_size", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "-1e-5"),
        ("gradient_accumulation_steps", "0"),
        ("max_train_steps", "0"),
        ("max_grad_norm", "0"),
        ("num_train_epochs", "0"),
        ("label_smoothing", "1"),
        ("lr_scheduler", "cosin"),
        ("mixed_precision", "fp8"),
        ("checkpoints_total_limit", "0"),
        ("report_to", "paper"),
    ],
)
def test_every_impossible_training_setting_has_a_line(name, value):
    found = mistakes(f"--{name}", value, cls=TrainSettings)
    assert len(found) == 1
    assert name in found[0]


@pytest.mark.parametrize(
    ("flag", "value", "line"),
    [
        ("adam_beta1", "1", "--adam_beta1 must be below 1, got 1.0"),
        ("adam_beta2", "nan", "--adam_beta2 must be a finite number, got nan"),
        ("adam_epsilon", "-1", "--adam_epsilon must be above 0, got -1.0"),
        ("num_train_epochs", "1e300", "--num_train_epochs must be at most 1000000, got 1e+300"),
        ("num_train_epochs", "inf", "--num_train_epochs must be a finite number, got inf"),
        ("seed", str(2**70), f"--seed must be at most {2**64 - 1}, got "),
        ("lr_power", "nan", "--lr_power must be a finite number, got nan"),
        ("train_batch_size", "1000000000", "--train_batch_size must be at most 65536"),
        ("output_dir", "a\0b", "--output_dir holds a null byte"),
        ("output_dir", "", "--output_dir is empty; give a value or leave it out"),
        ("tracker_name", "\udcff", "--tracker_name '\\udcff' is not UTF-8 text"),
        ("logging_steps", "7" * 5000, "--logging_steps: invalid int value: '777"),
    ],
)
def test_a_number_lies_within_the_bounds_at_its_flag_and_a_text_can_be_written(flag, value, line):
    (shown,) = mistakes(f"--{flag}", value, cls=TrainSettings)
    assert shown.startswith(line)
    assert len(shown) < 200


def test_infinity_is_a_number_only_where_it_means_no_limit():
    assert parse(TrainSettings, ["--max_grad_norm", "inf"])[0].max_grad_norm == float("inf")


def test_every_number_of_every_command_is_bounded_or_at_least_finite():
    """``nan`` is refused by every flag that takes a number."""
    for row in COMMANDS.values():
        cls = settings_class(row.settings, [])
        hints = get_type_hints(cls)
        floats = [
            name for name, hint in hints.items() if float in (inner(hint), *get_args(inner(hint)))
        ]
        for name in floats:
            lines = mistakes(f"--{name}", "nan", cls=cls)
            assert any(line.startswith(f"--{name} must be") for line in lines), name


def test_none_is_no_number_where_a_setting_may_be_left_out():
    assert parse(TextSettings, ["--max_length", "none"])[0].max_length is None
    assert parse(TextSettings, ["--max_length", "NULL"])[0].max_length is None
    assert mistakes("--seed", "none", cls=TrainSettings) == ("--seed: invalid int value: 'none'",)


def test_of_a_flag_given_twice_the_last_holds_and_the_run_says_so():
    settings, notices = parse(TrainSettings, ["--seed", "1", "--train-batch-size", "2", "--seed=3"])
    assert (settings.seed, notices) == (3, ["--seed is given twice; the last holds"])


def test_a_rate_of_zero_is_a_dry_run():
    assert parse(TrainSettings, ["--learning_rate", "0"])[0].learning_rate == 0


def test_every_kind_of_flag(tmp_path):
    words = "--count=4 --loud false --names a b".split()
    assert parse(Toy, words)[0] == Toy(count=4, loud=False, names=["a", "b"])
    assert parse(Toy, ["--loud=YES"])[0].loud is True
    settings, _ = parse(TextSettings, "--max-length 7 --share-prefix --learning_rate 1e-3".split())
    assert (settings.max_length, settings.share_prefix, settings.learning_rate) == (7, True, 1e-3)
    assert parse(TextSettings, ["--share_prefix", "no"])[0].share_prefix is False
    assert parse(TextSettings, [])[0].share_prefix is None
    assert parse(TextSettings, ["--no_orpo_nll_on_prompt"])[0].orpo_nll_on_prompt is False
    assert parse(TextSettings, ["--no-orpo-nll-on-prompt"])[0].orpo_nll_on_prompt is False
    assert parse(TextSettings, ["--loss_weights", "1", "0.5", "--loss_type", "sigmoid", "sft"])[
        0
    ].loss_weights == [1.0, 0.5]
    assert parse(Toy, ["--loud", "--no_loud"])[0].loud is False
    assert mistakes("--no_count") == ("unknown flag --no_count (did you mean --count?)",)


def test_a_value_may_begin_with_a_minus():
    assert parse(Toy, ["--rate", "-1e-5"])[0].rate == -1e-5
    assert parse(Toy, ["--names", "-a"])[0].names == ["-a"]
    assert parse(Toy, ["--names", "--a b"])[0].names == ["--a b"]


def test_what_is_missing_behind_a_flag_does_not_hide_other_mistakes():
    lines = mistakes("--count", "--rate", "fast", "--names", "--bogus", "1", "2")
    assert len(lines) == 4
    assert "--count: expected one argument" in lines[0]


def test_settings_are_frozen():
    for settings in (Toy(), TrainSettings(), TextSettings(), ImageSettings(), EvaluateSettings()):
        with pytest.raises(FrozenInstanceError):
            settings.output_dir = "elsewhere"


def test_a_field_says_which_numbers_depend_on_it():
    field = flag(0, "how", changes="draws")
    assert field.metadata["changes"] == "draws"
    assert "changes" not in flag(0, "how").metadata
