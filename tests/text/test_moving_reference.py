"""A reference that the policy is mixed into begins at the policy, and is resumed bit for bit."""

import pytest
from safetensors.torch import load_file

from diffdpo.config import parse
from diffdpo.engine.checkpoint_state import AVERAGES
from diffdpo.errors import UserError
from diffdpo.text.settings import TextSettings
from tests.text.runs import flags, metrics, train

RESULT = {None: "model.safetensors", True: "adapter_model.safetensors"}


@pytest.mark.parametrize("peft", [None, True])
def test_it_is_resumed_bit_for_bit(lm, data, tmp_path, peft, capsys):
    more = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 3}
    more |= {"use_peft": peft, "max_train_steps": 5}
    train(*flags(lm, data["pairs"], tmp_path / "straight", **more))
    said = capsys.readouterr().out
    assert "a moving average of the policy, decay 0.5, every 3 steps" in said
    cut = {**more, "checkpointing_steps": 2}
    train(*flags(lm, data["pairs"], tmp_path / "cut", **{**cut, "max_train_steps": 2}))
    assert (tmp_path / "cut" / "checkpoint-2" / AVERAGES).exists()
    (tmp_path / "cut" / RESULT[peft]).unlink()
    train(*flags(lm, data["pairs"], tmp_path / "cut", **cut, resume_from_checkpoint="latest"))
    straight = metrics(tmp_path / "straight")
    assert metrics(tmp_path / "cut") == straight
    assert straight[0]["rewards/margins"] == 0.0
    train(*flags(lm, data["pairs"], tmp_path / "still", use_peft=peft, max_train_steps=5))
    still = metrics(tmp_path / "still")
    assert straight[:3] == still[:3]
    assert straight[3] != still[3]  # the first step after the reference has moved
    one, other = (load_file(tmp_path / name / RESULT[peft]) for name in ("straight", "cut"))
    assert all(bool((one[name] == other[name]).all()) for name in one)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--ref_model_sync_steps 3", "--ref_model_sync_steps belongs to --sync_ref_model"),
        ("--sync_ref_model --loss_type simpo", "loss simpo has no reference"),
        ("--sync_ref_model --ref_model_mixup_alpha 1.5", "--ref_model_mixup_alpha must be at most"),
    ],
)
def test_what_does_not_go_with_it_is_named(words, line):
    with pytest.raises(UserError, match=line):
        parse(TextSettings, words.split())
