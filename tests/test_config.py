"""Strict settings: every mistake is named, nothing is guessed."""

from dataclasses import dataclass, fields

import pytest
import yaml

from diffdpo.config import BaseSettings, Layer, TrainSettings, flag, parse, read_yaml
from diffdpo.engine.run_folder import save_yaml
from diffdpo.errors import UserError


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


def test_a_rate_of_zero_is_a_dry_run():
    assert parse(TrainSettings, ["--learning_rate", "0"])[0].learning_rate == 0
