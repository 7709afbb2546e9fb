"""A reference that the policy is mixed into: TRL's, step by step; resumed bit for bit; refused
where there is none to mix."""

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from diffdpo.config import parse
from diffdpo.engine.averages import MovingReference
from diffdpo.engine.checkpoint_state import AVERAGES
from diffdpo.errors import UserError
from diffdpo.text.model.network import make_reference, make_trainable
from diffdpo.text.settings import TextSettings
from tests.text.factory import model
from tests.text.runs import flags, metrics, train

RESULT = {None: "model.safetensors", True: "adapter_model.safetensors"}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("alpha", "every"), [(None, None), (0.3, 2), (1.0, 3)])
def test_its_weights_are_those_of_trls_callback(alpha, every):
    callbacks = pytest.importorskip("trl.trainer.callbacks")
    trl = pytest.importorskip("trl")
    given = {"ref_model_mixup_alpha": alpha, "ref_model_sync_steps": every}
    given = {name: value for name, value in given.items() if value is not None}
    theirs = trl.DPOConfig(output_dir="unused", use_cpu=True, bf16=False, **given)
    theirs.ref_model_sync_steps //= 1 if every else 128  # 512 by default
    settings = TextSettings(sync_ref_model=True, **given)
    assert settings.sync_steps == (every or 512)
    network = model()
    reference = make_reference(make_trainable(network, settings, CPU), settings, False)
    assert isinstance(reference, MovingReference)
    reference.average.every //= 1 if every else 128
    expected, callback = model(), None
    callback = callbacks.SyncRefModelCallback(expected, Accelerator(cpu=True))
    for step in range(1, 8):
        with torch.no_grad():
            for weight in network.parameters():
                weight += step * 0.01 * torch.randn_like(weight)
        state = type("State", (), {"global_step": step})
        callback.on_step_end(theirs, state, None, model=network)
        reference.average.update(torch.tensor(True), step)
        for name, weight in expected.named_parameters():
            mean = reference.average.means[f"network.{name}"]
            torch.testing.assert_close(mean, weight, rtol=1e-6, atol=1e-6)
    assert not torch.equal(expected.lm_head.weight, model().lm_head.weight)


@pytest.mark.parametrize("peft", [None, True])
def test_it_is_resumed_bit_for_bit(lm, data, tmp_path, peft, capsys):
    alpha = 1 if peft else 0.5
    more = {"sync_ref_model": True, "ref_model_mixup_alpha": alpha, "ref_model_sync_steps": 2}
    more |= {"use_peft": peft, "max_train_steps": 5, "lr_scheduler": "constant"}
    train(*flags(lm, data["pairs"], tmp_path / "straight", **more))
    said = capsys.readouterr().out
    assert f"a moving average of the policy, decay {1 - alpha:g}, every 2 steps" in said
    # Stopped between two of its turns: it is neither the first policy nor that of the checkpoint.
    cut = {**more, "checkpointing_steps": 3}
    train(*flags(lm, data["pairs"], tmp_path / "cut", **{**cut, "max_train_steps": 3}))
    assert (tmp_path / "cut" / "checkpoint-3" / AVERAGES).exists()
    (tmp_path / "cut" / RESULT[peft]).unlink()
    train(*flags(lm, data["pairs"], tmp_path / "cut", **cut, resume_from_checkpoint="latest"))
    straight = metrics(tmp_path / "straight")
    assert metrics(tmp_path / "cut") == straight
    assert straight[0]["rewards/margins"] == 0.0
    plain = {"use_peft": peft, "max_train_steps": 3, "lr_scheduler": "constant"}
    train(*flags(lm, data["pairs"], tmp_path / "still", **plain))
    still = metrics(tmp_path / "still")
    assert straight[:2] == still[:2]
    assert straight[2] != still[2]  # the first step after the reference has moved
    # Taken over whole, policy and reference are the same once more.
    assert (straight[2]["rewards/margins"] == 0.0) == (alpha == 1)
    one, other = (load_file(tmp_path / name / RESULT[peft]) for name in ("straight", "cut"))
    assert all(bool((one[name] == other[name]).all()) for name in one)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--ref_model_sync_steps 3", "--ref_model_sync_steps belongs to --sync_ref_model"),
        ("--sync_ref_model --use_peft", "is not that of the weights they give"),
        ("--sync_ref_model --ref_model_name_or_path .", "the reference begins as the policy"),
        ("--sync_ref_model --loss_type simpo", "loss simpo has no reference"),
        ("--sync_ref_model --ref_model_mixup_alpha 1.5", "--ref_model_mixup_alpha must be at most"),
    ],
)
def test_what_does_not_go_with_it_is_named(words, line):
    with pytest.raises(UserError, match=line):
        parse(TextSettings, words.split())
