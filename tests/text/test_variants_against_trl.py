"""TRL as the oracle for what changes a loss beside its name: divergences, weights, CPO's family."""

import dataclasses
import re
import warnings

import pytest

from diffdpo.losses import LOSSES
from tests.text import factory
from tests.text.engine import OneStep
from tests.text.test_against_trl import (
    POLICY,
    REFERENCE,
    ROWS,
    as_read_by_trl,
    compare,
    make_trainer,
    norm,
)

trl = pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOConfig, CPOTrainer

OF_MARGIN = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"]
SMOOTH = {"robust": 0.2, "exo_pair": 0.05}


@pytest.fixture(scope="module")
def models():
    return factory.model(seed=POLICY), factory.model(seed=REFERENCE)


@pytest.fixture
def dpo(tmp_path):
    """TRL's trainer and its first batch, our rows of the same data set."""
    rows = factory.pair_rows(ROWS)
    return make_trainer(trl.DPOTrainer, trl.DPOConfig, rows, tmp_path, paired=True)


def test_every_loss_of_trl_has_its_name_here():
    """The names stand in the help of its settings; CPO's own have ``cpo`` before them."""
    fields = {field.name: field for field in dataclasses.fields(trl.DPOConfig)}
    names = re.findall(r"`'(\w+)'`", fields["loss_type"].metadata["help"])
    assert len(names) == 15
    fields = {field.name: field for field in dataclasses.fields(trl.KTOConfig)}
    names += re.findall(r"`'(\w+)'`", fields["loss_type"].metadata["help"])
    cpo = {field.name: field for field in dataclasses.fields(CPOConfig)}["loss_type"]
    names += [CPO.get(name, name) for name in cpo.metadata["choices"]]
    assert not set(names) - set(LOSSES)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_discopop_agrees(dpo, models, tau):
    dpo[0].args.discopop_tau = tau
    compare(dpo, models, ["discopop"], [1.0], discopop_tau=tau)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_divergences_agree(dpo, models, divergence):
    trainer = dpo[0]
    trainer.f_divergence_type, options = divergence, {"f_divergence_type": divergence}
    if divergence == "alpha_divergence":
        trainer.f_alpha_divergence_coef = options["f_alpha_divergence_coef"] = 0.8
    for name in OF_MARGIN:
        if (name, divergence) == ("discopop", "forward_kl"):
            continue  # TRL's loss is NaN at a margin of −2,000: infinity times zero
        smooth = SMOOTH.get(name, 0.0)
        # The rounding of a log-ratio is relative to its two scores; the exponential multiplies it.
        compare(dpo, models, [name], [1.0], rel=1e-4, label_smoothing=smooth, **options)


REFERENCED = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sft"]
REFERENCED += ["sppo_hard", "apo_zero", "apo_down", "sigmoid_norm", "discopop"]


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_ld_agrees(dpo, models, alpha):
    dpo[0].ld_alpha = alpha
    for name in ("sigmoid", "ipo", "nca_pair", "sft"):
        compare(dpo, models, [name], [1.0], ld_alpha=alpha)
    compare(dpo, models, ["sigmoid", "sft"], [1.0, 0.5], ld_alpha=alpha)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_aot_agrees(dpo, models, smoothing):
    for name in ("aot", "aot_unpaired"):
        compare(dpo, models, [name], [1.0], label_smoothing=smoothing)
    compare(dpo, models, ["aot", "ipo"], [1.0, 0.01])
    dpo[0].ld_alpha = 0.4
    compare(dpo, models, ["aot"], [1.0], ld_alpha=0.4)


def test_wpo_agrees(tmp_path, models):
    rows = factory.pair_rows(ROWS)
    weighting = {"use_weighting": True}  # told at the start: TRL's head gives what it needs
    dpo = make_trainer(trl.DPOTrainer, trl.DPOConfig, rows, tmp_path, paired=True, **weighting)
    for name in REFERENCED:
        if name not in ("sft", "hinge"):  # TRL multiplies these in place, and fails
            smooth = SMOOTH.get(name, 0.0)
            compare(dpo, models, [name], [1.0], label_smoothing=smooth, use_weighting=True)
    compare(dpo, models, ["sigmoid", "ipo"], [1.0, 0.01], use_weighting=True)


CPO = {"sigmoid": "cpo", "hinge": "cpo_hinge", "ipo": "cpo_ipo", "simpo": "simpo"}
SHOWN = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("cpo_alpha", [0.0, 1.0, 0.3])
def test_cpo_and_alphapo_agree(models, tmp_path, alpha, cpo_alpha):
    trainer, batch, ours = make_trainer(
        CPOTrainer, CPOConfig, factory.pair_rows(ROWS), tmp_path, paired=True, simpo_gamma=0.7
    )
    items = as_read_by_trl(batch, ours)
    trainer.alpha, trainer.cpo_alpha, trainer.simpo_gamma = alpha, cpo_alpha, 0.7
    for theirs, name in CPO.items():
        if alpha and theirs in ("sigmoid", "hinge"):
            continue  # p of a whole completion is 0 in float32, and TRL's loss then NaN
        trainer.loss_type = theirs
        trainer.model.zero_grad()
        expected, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
        expected.backward()
        models[0].zero_grad()
        options = {"cpo_alpha": cpo_alpha, "alpha": alpha, "simpo_gamma": 0.7}
        loss, measured = OneStep(*models).run(items, loss_type=[name], **options)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert norm(models[0]) == pytest.approx(norm(trainer.model), rel=1e-4)
        for metric in SHOWN if not alpha else SHOWN[2:]:
            assert measured[metric].item() == pytest.approx(float(metrics[metric]), rel=1e-5)


def test_alphapo_is_trls(models, tmp_path):
    trainer, batch, ours = make_trainer(
        CPOTrainer,
        CPOConfig,
        factory.pair_rows(ROWS),
        tmp_path,
        paired=True,
        loss_type="alphapo",
        alpha=0.2,
        beta=2.0,
    )
    expected, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    items = as_read_by_trl(batch, ours)
    loss, _ = OneStep(*models).run(items, loss_type=["alphapo"], alpha=0.2, beta=2.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_cpo_comes_with_its_likelihood_as_trls_default(models, tmp_path):
    trainer, batch, ours = make_trainer(
        CPOTrainer, CPOConfig, factory.pair_rows(ROWS), tmp_path, paired=True
    )
    expected, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    loss, _ = OneStep(*models).run(as_read_by_trl(batch, ours), loss_type=["cpo"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
