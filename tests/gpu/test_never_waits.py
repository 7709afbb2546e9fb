"""The step that never waits for its card, by PyTorch's own watch over operations that do."""

import pytest
import torch

from diffdpo.engine.trainer import Trainer
from diffdpo.image.pictures.pixels import from_bytes
from tests.commands.image_runs import flags, metrics, train
from tests.text import runs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def watched(monkeypatch):
    """Every step but the first, which brings constants to the card, raises where the host waits."""
    step, count = Trainer.step, []

    def strict(trainer, *args, **options):
        count.append(1)
        torch.cuda.set_sync_debug_mode("error" if len(count) > 1 else "default")
        try:
            return step(trainer, *args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "step", strict)
    return count


# Prompts are stored: the text encoders' own pipelines bring tokens to the card as they like.
STORED = {"cache_latents": True, "logging_steps": 4}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rank": None, "ema_decay": 0.9, "timesteps_per_pair": 2},
        {"mixed_precision": "bf16", "gradient_accumulation_steps": 2},
        {"mixed_precision": "fp16"},
        {"loss_type": "kto", "noise_offset": 0.1, "input_perturbation": 0.1},
    ],
)
@pytest.mark.parametrize("family", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_a_step_on_pictures_waits_for_nothing(
    models, pairs, tmp_path, watched, family, changes, workers
):
    words = {**STORED, "precompute_dir": tmp_path / "tables", "dataloader_num_workers": workers}
    train(*flags(models(family), pairs, tmp_path / "run", **words, **changes))
    assert len(watched) == len(metrics(tmp_path / "run")) == 4


TEXT = [{}, {"use_peft": True}, {"loss_type": ["sigmoid_norm"]}]
TEXT += [{"attn_implementation": "flex_attention"}]


@pytest.mark.parametrize("changes", TEXT)
def test_a_step_on_text_waits_for_nothing(lm, data, tmp_path, watched, monkeypatch, changes):
    # transformers asks one truth value a pass itself: whether rows are packed, or unpadded.
    for name, answer in (("find_packed_sequence_indices", None), ("fast_all", False)):
        monkeypatch.setattr(
            f"transformers.masking_utils.{name}", lambda *args, answer=answer: answer
        )
    runs.train(*runs.flags(lm, data["pairs"], tmp_path / "run", logging_steps=4, **changes))
    assert len(watched) == 4


def test_a_wait_is_found(watched, models, pairs, tmp_path, monkeypatch):
    """Or the tests above would show nothing."""
    context = Trainer.context

    def reading(trainer, batches):
        float(trainer.parameters[0].sum())
        return context(trainer, batches)

    monkeypatch.setattr(Trainer, "context", reading)
    words = {**STORED, "precompute_dir": tmp_path / "tables"}
    with pytest.raises(RuntimeError, match="synchroniz"):
        train(*flags(models(), pairs, tmp_path / "run", **words))


def test_bytes_become_the_bits_of_a_cpu():
    byte = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(from_bytes(byte.cuda()).cpu(), from_bytes(byte))


def test_the_first_loss_is_that_of_a_cpu(models, pairs, tmp_path, monkeypatch):
    """Pixels and noise that travel are the numbers that the CPU would have used."""
    train(*flags(models(), pairs, tmp_path / "card", max_train_steps=1))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    train(*flags(models(), pairs, tmp_path / "cpu", max_train_steps=1))
    card, cpu = (metrics(tmp_path / name)[0] for name in ("card", "cpu"))
    assert card["error/policy_chosen"] == pytest.approx(cpu["error/policy_chosen"], rel=1e-3)
