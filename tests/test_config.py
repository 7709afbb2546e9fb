"""Strict settings: every mistake is named, nothing is guessed."""

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import get_args, get_type_hints

import pytest
import yaml

from diffdpo.cli import COMMANDS, settings_class
from diffdpo.config import BaseSettings, Layer, parse, read_yaml
from diffdpo.engine.run_folder import save_yaml
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.flags import flag
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from diffdpo.words import inner


@dataclass(frozen=True)
class Toy(BaseSettings):
    count: int = flag(3, "how many")
    rate: float = flag(0.5, "how fast")
    names: list[str] = flag(["a"], "who", aliases=["--who"])
    loud: bool = flag(False, "say so")

    def problems(self):
        return ["--count must be positive"] if self.count < 1 else []

    @classmethod
    def inert(cls):
        return {"old_flag": "it does nothing"}


def mistakes(*argv, cls=Toy):
    with pytest.raises(UserError) as caught:
        parse(cls, list(argv))
    return caught.value.mistakes


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


def test_files_are_strict_too(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("cuont: 1\n")
    assert "did you mean count" in mistakes("--config", str(path))[0]
    path.write_text("a: [b\n")
    assert str(path) in mistakes("--config", str(path))[0]
    path.write_text("- 1\n")
    assert "expected" in mistakes("--config", str(path))[0]
    assert "missing.yaml" in mistakes("--config", "missing.yaml")[0]


def test_a_written_file_reads_back_the_same_without_secrets(tmp_path):
    settings = TrainSettings(
        learning_rate=3e-7, max_train_steps=5, hub_token="secret", report_to="none"
    )
    save_yaml(settings, tmp_path / "config.yaml")
    assert "secret" not in (tmp_path / "config.yaml").read_text()
    again, _ = parse(TrainSettings, ["--config", str(tmp_path / "config.yaml")])
    assert {f.name: getattr(again, f.name) for f in fields(again) if f.name != "hub_token"} == {
        f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "hub_token"
    }
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 3e-7


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


def test_a_file_knows_the_names_of_other_programs_and_those_without_effect(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "per_device_train_batch_size: 2\nsave_steps: 7\ntorch_dtype: null\n"
        "gradient_checkpointing_kwargs: {use_reentrant: false}\n"
    )
    settings, notices = parse(TextSettings, ["--config", str(path)])
    assert (settings.train_batch_size, settings.checkpointing_steps) == (2, 7)
    assert [notice.split(":")[0] for notice in notices] == [
        "--torch_dtype",
        "--gradient_checkpointing_kwargs",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nseed: 2\n", "seed stands here twice"),
        ("max_steps: 1\nmax_train_steps: 2\n", "max_steps and max_train_steps are one setting"),
        ("a: " + "[" * 20000, "nested too deeply"),
        ("seed: &x [*x]\n", "seed is a list"),
        ("seed: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ('output_dir: "a\\0b"\n', "--output_dir holds a null byte"),
        ("x" * 900 + ": 1\n", "unknown setting 'xxx"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
                for old, new in zip("abcdefgh", "bcdefghi", strict=True)
            )
            + "loss_type: *i\n",
            "loss_type is a list of something other than plain values",
        ),
    ],
)
def test_a_file_that_cannot_be_settings_is_a_short_line(tmp_path, text, line):
    lines = complaints(tmp_path, text, TextSettings)
    assert any(line in shown for shown in lines)
    assert max(map(len, lines)) < 500


def test_a_rate_of_zero_is_a_dry_run():
    assert parse(TrainSettings, ["--learning_rate", "0"])[0].learning_rate == 0


def from_file(tmp_path, text, cls=TrainSettings):
    path = tmp_path / "given.yaml"
    path.write_text(text)
    return parse(cls, ["--config", str(path)])[0]


def complaints(tmp_path, text, cls=TrainSettings):
    with pytest.raises(UserError) as caught:
        from_file(tmp_path, text, cls)
    return caught.value.mistakes


def test_a_yaml_boolean_is_a_word_where_words_are_listed(tmp_path):
    assert from_file(tmp_path, "mixed_precision: no\n").mixed_precision == "no"
    assert from_file(tmp_path, "mixed_precision: off\n").mixed_precision == "no"
    assert from_file(tmp_path, "report_to: none\n").report_to == "none"
    assert from_file(tmp_path, "eval_strategy: no\nbf16: yes\n", TextSettings) == TextSettings(
        eval_strategy="no", bf16=True
    )
    (line,) = complaints(tmp_path, "report_to: no\n")
    assert line.startswith("--report_to 'no' is unknown; known: tensorboard")
    (line,) = complaints(tmp_path, "mixed_precision: yes\n")
    assert line.startswith("--mixed_precision 'yes' is unknown; known: no, bf16, fp16")
    (line,) = complaints(tmp_path, "output_dir: no\n")
    assert "output_dir is the boolean false in YAML; put the word in quotes" in line
    assert from_file(tmp_path, "output_dir: 'no'\n").output_dir == "no"
    (line,) = complaints(tmp_path, "names: [yes, b]\n", Toy)
    assert "names is the boolean true in YAML" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("learning_rate:\n", "learning_rate has no value"),
        ("learning_rate: {start: 1}\n", "learning_rate is nested"),
        ("learning_rate: [1, 2]\n", "learning_rate is a list; one value is wanted"),
        ("learning_rate: yes\n", "--learning_rate: invalid float value: 'yes'"),
        ("seed: 1.5\n", "--seed: invalid int value: '1.5'"),
        ("scale_lr: perhaps\n", "--scale_lr: 'perhaps' is neither true nor false"),
        ("no: 3\n", "unknown setting 'False'"),
    ],
)
def test_a_yaml_value_that_does_not_fit_is_one_line(tmp_path, text, line):
    (shown,) = complaints(tmp_path, text)
    assert line in shown


def test_lists_in_yaml_hold_plain_values(tmp_path):
    assert from_file(tmp_path, "names: z\n", Toy).names == ["z"]
    assert from_file(tmp_path, "names: []\n", Toy).names == []
    assert from_file(tmp_path, "names: [a, 2]\n", Toy).names == ["a", "2"]
    (line,) = complaints(tmp_path, "names: [[a]]\n", Toy)
    assert "something other than plain values" in line


def test_an_empty_optional_value_in_yaml_is_none(tmp_path):
    assert from_file(tmp_path, "max_length: null\n", TextSettings).max_length is None
    assert TextSettings().max_length == 1024


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
    assert mistakes("--no_loud") == ("unknown flag --no_loud (did you mean --loud?)",)


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


def test_a_file_that_cannot_be_read_is_named_beside_the_other_mistakes():
    lines = mistakes("--config", "missing.yaml", "--cuont", "1")
    assert len(lines) == 2
    assert "did you mean --count" in lines[0]
    assert "missing.yaml" in lines[1]
