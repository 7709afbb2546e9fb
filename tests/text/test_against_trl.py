"""TRL as the oracle: the same tokens and, for every loss that both have, the same value, gradient
and metrics."""

import warnings
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text import factory
from tests.text.engine import OneStep

trl = pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

QUIET = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "max_length": 64,
}
SMOOTH = {"robust": 0.2, "exo_pair": 0.05}
# TRL has label smoothing for these two alone where both packages have the loss; sigmoid ignores it
# there.
PAIRED = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
]
PAIRED += ["apo_down", "sft", "sigmoid_norm"]
SIDES = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
ROWS = 6
POLICY, REFERENCE = 0, 1  # this way round the reference point of KTO is positive


@pytest.fixture(scope="module")
def models():
    """A policy and a reference that differ."""
    return factory.model(seed=POLICY), factory.model(seed=REFERENCE)


@pytest.fixture(params=["text", "conversations"])
def dpo(request, tmp_path):
    """TRL's trainer and its first batch, our rows of the same data set."""
    rows = factory.pair_rows(ROWS) if request.param == "text" else factory.chat_rows(ROWS)
    return make_trainer(trl.DPOTrainer, trl.DPOConfig, rows, tmp_path, paired=True)


def make_trainer(trainer_class, config_class, rows, folder, paired, **extra):
    tokenizer = factory.tokenizer(factory.CHATML)
    config = config_class(
        output_dir=str(folder), per_device_train_batch_size=ROWS, **QUIET, **extra
    )
    policy = factory.model(seed=POLICY)
    keywords = (
        {}
        if trainer_class in (CPOTrainer, ORPOTrainer)
        else {"ref_model": factory.model(seed=REFERENCE)}
    )
    trainer = trainer_class(
        model=policy,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        **keywords,
    )
    ours = TextRows(Dataset.from_list(rows), tokenizer, RowSettings(64, paired=paired))
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(ROWS)])
    return trainer, batch, ours


def norm(model):
    return (
        torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        .norm()
        .item()
    )


def test_the_tokens_are_the_same(dpo):
    trainer, _, ours = dpo
    assert len(ours) == len(trainer.train_dataset)
    for item, row in zip(ours.items, trainer.train_dataset, strict=True):
        assert list(item.prompt) == row["prompt_ids"]
        assert [*map(list, item.completions)] == [row["chosen_ids"], row["rejected_ids"]]


def compare(dpo, models, names, weights, rel=1e-5, **settings):
    trainer, batch, ours = dpo
    # TRL reads these anew in every step, so one trainer serves all losses.
    trainer.loss_types, trainer.loss_weights = names, weights
    trainer.label_smoothing = settings.get("label_smoothing", 0.0)
    trainer.model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = trainer._compute_loss(trainer.model, dict(batch), False)
    theirs.backward()
    policy, reference = models
    policy.zero_grad()
    loss, _ = OneStep(policy, reference).run(
        ours.items, loss_type=names, loss_weights=weights, beta=0.1, **settings
    )
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=rel, abs=1e-5)
    # The same loss could come of another sign or a detached term; its gradient could not.
    assert norm(policy) == pytest.approx(norm(trainer.model), rel=10 * rel)


@pytest.mark.parametrize("name", PAIRED)
def test_paired_losses_agree(dpo, models, name):
    compare(dpo, models, [name], [1.0], label_smoothing=SMOOTH.get(name, 0.0))


def test_weighted_sums_agree(dpo, models):
    compare(dpo, models, ["sigmoid", "sft"], [1.0, 0.2])
    compare(dpo, models, ["ipo", "apo_zero", "bco_pair"], [0.5, 2.0, 1.0])


def test_rpo_alpha_is_the_weighted_sum(dpo, models):
    one = OneStep(*models)
    summed, _ = one.run(dpo[2].items, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    added, _ = one.run(dpo[2].items, loss_type=["sigmoid"], rpo_alpha=0.7)
    assert torch.equal(summed, added)


def test_metrics_agree(dpo, models):
    trainer, batch, ours = dpo
    trainer.loss_types, trainer.loss_weights, trainer.label_smoothing = ["sigmoid"], [1.0], 0.0
    trainer._metrics["train"].clear()
    trainer._compute_loss(trainer.model, dict(batch), False)
    one = OneStep(*models)
    _, metrics = one.run(ours.items)
    means = {name: value[0] / value[1] if value.dim() else value for name, value in metrics.items()}
    for name, value in means.items():
        assert value.item() == pytest.approx(
            trainer._metrics["train"][name][-1], rel=1e-5, abs=1e-5
        ), name
    assert {
        "logps/chosen",
        "logps/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "num_tokens",
    } <= set(means)
    assert {"logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy"} <= set(means)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_unpaired_losses_agree(models, tmp_path, name):
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.75}
    rows = factory.label_rows(ROWS)
    trainer, batch, ours = make_trainer(
        trl.KTOTrainer, trl.KTOConfig, rows, tmp_path, paired=False, loss_type=name, **weights
    )
    # KTO's z depends on which completion follows which, so the order has to be TRL's.
    order = [row["prompt_ids"] for row in trainer.train_dataset]
    assert [list(item.prompt) for item in ours.items] == order
    theirs = trainer._compute_loss(trainer.model, batch, False)
    one = OneStep(*models)
    loss, measured = one.run(ours.items, loss_type=[name], **weights)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)
    if name == "kto":
        assert measured["kl"].item() > 0
        assert measured["kl"].item() == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=1e-5)
    for metric in (*SIDES, "logits/chosen", "logits/rejected", "entropy", "num_tokens"):
        total, count = measured[metric].tolist()
        assert total / count == pytest.approx(trainer._metrics["train"][metric][-1], rel=1e-5)


@pytest.mark.parametrize("on_prompt", [True, False])
def test_orpo_agrees(models, tmp_path, on_prompt):
    rows = factory.pair_rows(ROWS)
    trainer, batch, ours = make_trainer(ORPOTrainer, ORPOConfig, rows, tmp_path, paired=True)
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    items = as_read_by_trl(batch, ours)
    one = OneStep(*models, score_prompts=on_prompt)
    loss, measured = one.run(items, loss_type=["orpo"], orpo_nll_on_prompt=on_prompt)
    if on_prompt:
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    else:
        assert loss.item() != pytest.approx(theirs.item(), rel=1e-3)
    for metric in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ):
        assert measured[metric].item() == pytest.approx(
            float(metrics[metric]), rel=1e-5, abs=1e-6
        ), metric


def test_simpo_agrees(models, tmp_path):
    extra = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.7, "beta": 2.0}
    trainer, batch, ours = make_trainer(
        CPOTrainer, CPOConfig, factory.pair_rows(ROWS), tmp_path, paired=True, **extra
    )
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    items = as_read_by_trl(batch, ours)
    loss, measured = OneStep(*models).run(items, loss_type=["simpo"], simpo_gamma=0.7, beta=2.0)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    for metric in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"):
        assert measured[metric].item() == pytest.approx(
            float(metrics[metric]), rel=1e-5, abs=1e-6
        ), metric


def as_read_by_trl(batch, ours):
    """TRL's ORPO and CPO put a BOS in front of everything, whatever the tokenizer does."""
    tokens = batch["chosen_input_ids"][0][batch["chosen_attention_mask"][0].bool()].tolist()
    items = (
        [replace(item, prompt=[0, *item.prompt]) for item in ours.items]
        if tokens[0] == 0
        else ours.items
    )
    assert tokens == [*items[0].prompt, *items[0].completions[0]]
    return items
