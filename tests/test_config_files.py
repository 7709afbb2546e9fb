"""YAML files of settings: strict, written and read back, and each misfit a line."""

from dataclasses import fields

import pytest
import yaml

from diffdpo.config import parse, settings_of
from diffdpo.engine.run_folder import save_yaml
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.text.settings import TextSettings
from tests.toy import Toy, mistakes


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
        learning_rate=3e-7,
        max_train_steps=5,
        hub_token="secret",
        report_to="none",
        precompute_dir="tables",
    )
    save_yaml(settings, tmp_path / "config.yaml")
    assert "secret" not in (tmp_path / "config.yaml").read_text()
    again, _ = parse(TrainSettings, ["--config", str(tmp_path / "config.yaml")])
    assert {f.name: getattr(again, f.name) for f in fields(again) if f.name != "hub_token"} == {
        f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "hub_token"
    }
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 3e-7


def test_the_home_folder_has_its_sign_in_files_and_in_quotes_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("output_dir: ~/run\ntracker_name: a~/b\n")
    settings, _ = parse(TrainSettings, ["--config", "~/run.yaml", "--logging_dir", "~/logs"])
    assert settings.output_dir == str(tmp_path / "run")
    assert settings.logging_dir == str(tmp_path / "logs")
    assert settings.tracker_name == "a~/b"
    again = settings_of(TrainSettings, output_dir="~/run")
    assert again.output_dir == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("$PLACE/run", "/big/run"),
        ("${PLACE}", "/big"),
        ("$PLACE/my run", "/big/my run"),
        ("a/job-$JOB", "a/job-7"),
        ("out of $PLACE", "out of $PLACE"),  # a text
        ("$PLACE is large/full", "$PLACE is large/full"),
        ("costs/$5", "costs/$5"),
    ],
)
def test_variables_of_the_environment_stand_for_their_values_in_paths(
    tmp_path, monkeypatch, written, read
):
    monkeypatch.setenv("PLACE", "/big")
    monkeypatch.setenv("JOB", "7")
    (tmp_path / "run.yaml").write_text(f"output_dir: '{written}'\n")
    settings, _ = parse(TrainSettings, ["--config", str(tmp_path / "run.yaml")])
    assert settings.output_dir == read
    assert parse(TrainSettings, ["--output_dir", written])[0].output_dir == read
    assert settings_of(TrainSettings, output_dir=written).output_dir == read


def test_a_variable_that_is_not_set_makes_no_folder_of_its_name(monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    for written in ("$PLACE/run", "$PLACE", "a/${PLACE}"):
        with pytest.raises(UserError, match=r"output_dir.*PLACE\}? is not set; write the path"):
            settings_of(TrainSettings, output_dir=written)


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


def test_a_file_that_cannot_be_read_is_named_beside_the_other_mistakes():
    lines = mistakes("--config", "missing.yaml", "--cuont", "1")
    assert len(lines) == 2
    assert "did you mean --count" in lines[0]
    assert "missing.yaml" in lines[1]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("seed: 010", "seed", 10),
        ("seed: 1_000", "seed", 1000),
        ("tracker_name: 007", "tracker_name", "007"),
        ("tracker_name: 1.10", "tracker_name", "1.10"),
        ("hub_model_id: 0123456", "hub_model_id", "0123456"),
        ("max_grad_norm: .inf", "max_grad_norm", float("inf")),
        ("learning_rate: 1.5e-5", "learning_rate", 1.5e-5),
        ("lr_power: 2", "lr_power", 2.0),
    ],
)
def test_a_number_in_a_file_is_what_is_written(tmp_path, line, name, value):
    (tmp_path / "run.yaml").write_text(line + "\n")
    settings, _ = parse(TrainSettings, ["--config", str(tmp_path / "run.yaml")])
    assert getattr(settings, name) == value
    save_yaml(settings, tmp_path / "config.yaml")
    again, _ = parse(TrainSettings, ["--config", str(tmp_path / "config.yaml")])
    assert getattr(again, name) == value


def test_minutes_and_seconds_are_no_number(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 1:30\n")
    with pytest.raises(UserError, match=r"^--seed: invalid int value: '1:30'$"):
        parse(TrainSettings, ["--config", str(tmp_path / "run.yaml")])


def test_a_list_in_a_file_holds_no_flags(tmp_path):
    names = ["a cat", "--lora_r=3", "-h", "--preview", "b c"]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"lora_target_modules": names, "use_peft": True}))
    words = ["--model_name_or_path", "a/b", "--dataset_name", "c/d", "--config", str(path)]
    settings, _ = parse(TextSettings, words)
    assert settings.lora_target_modules == names
    assert settings.lora_r == TextSettings().lora_r
