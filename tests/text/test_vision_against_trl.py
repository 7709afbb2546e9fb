"""TRL's vision collators and trainers as the oracle: the same tokens, values and gradients."""

import warnings

import pytest
import torch
from datasets import Dataset

from diffdpo.data.places import Place
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.vision.rows import PictureRows
from diffdpo.text.vision.sight import Sight
from tests.text import vision_factory as vision
from tests.text.engine import OneStep

trl = pytest.importorskip("trl")

QUIET = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "max_length": None,
}
ROWS = 4
POLICY, REFERENCE = 0, 1
# The other losses differ in what they make of the same four scores of a pair, for which text has
# tests of its own.
LOSSES = {"sigmoid": [["sigmoid"]], "all": [["sigmoid"], ["ipo"], ["sigmoid", "sft"]]}


def ours(rows, family, paired=True):
    processor = vision.processor(family)
    return PictureRows(
        Dataset.from_list(rows),
        processor.tokenizer,
        RowSettings(None, paired=paired, in_parts=True),
        Sight(processor),
        "images",
        Place().file,
    )


def theirs(trainer_class, config_class, rows, family, folder, **options):
    """A trainer of TRL and its first batch."""
    config = config_class(
        output_dir=str(folder), per_device_train_batch_size=ROWS, **QUIET, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trainer_class(
            model=vision.model(family, POLICY),
            ref_model=vision.model(family, REFERENCE),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=vision.processor(family),
        )
        return trainer, trainer.data_collator([trainer.train_dataset[n] for n in range(ROWS)])


def norm(model):
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]).norm()


SLOW = [pytest.param("llava_next", marks=pytest.mark.slow)]


@pytest.mark.parametrize("pictures", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [*vision.FAMILIES, *SLOW])
def test_dpo_agrees(family, pictures, tmp_path):
    rows = vision.pair_rows(ROWS, pictures)
    trainer, batch = theirs(trl.DPOTrainer, trl.DPOConfig, rows, family, tmp_path)
    items = ours(rows, family).items
    sizes = batch["attention_mask"].sum(dim=1).tolist()
    read = [ids[:size].tolist() for ids, size in zip(batch["input_ids"], sizes, strict=True)]
    sides = [[*item.prompt, *item.completions[side]] for side in (0, 1) for item in items]
    assert read == sides
    for losses in LOSSES["all" if pictures == 2 else "sigmoid"]:
        trainer.loss_types, trainer.loss_weights = losses, [1.0] * len(losses)
        trainer.model.zero_grad()
        expected = trainer._compute_loss(trainer.model, dict(batch), False)
        expected.backward()
        one = OneStep(vision.model(family, POLICY), vision.model(family, REFERENCE))
        loss, _ = one.run(items, loss_type=losses, beta=0.1)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert norm(one.policy).item() == pytest.approx(norm(trainer.model).item(), rel=1e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", pytest.param("llava", marks=pytest.mark.slow)])
def test_kto_agrees(family, tmp_path):
    rows = [
        {
            "images": row["images"],
            "prompt": row["prompt"],
            "completion": row["chosen"],
            "label": number % 3 != 0,
        }
        for number, row in enumerate(vision.pair_rows(ROWS))
    ]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.75}
    options = {"loss_type": "kto", **weights}
    trainer, batch = theirs(trl.KTOTrainer, trl.KTOConfig, rows, family, tmp_path, **options)
    expected = trainer._compute_loss(trainer.model, batch, False)
    one = OneStep(vision.model(family, POLICY), vision.model(family, REFERENCE))
    loss, measured = one.run(ours(rows, family, paired=False).items, loss_type=["kto"], **weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert measured["kl"].item() == pytest.approx(trainer._metrics["eval"]["kl"][-1], rel=1e-4)
