"""Text preference training, from flags to exported result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.cache.keys import SCORES, Key, network_digest
from diffdpo.cache.scores import score_rows
from diffdpo.engine.console import say
from diffdpo.engine.recorder import StepCallback
from diffdpo.engine.run import TrainingResult, carry_out
from diffdpo.engine.run_folder import begin
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import UserError
from diffdpo.objective import Objective
from diffdpo.reference import Reference
from diffdpo.text.export import export
from diffdpo.text.inputs import check_vocabulary, open_training_rows, with_bundled
from diffdpo.text.network import (
    is_adapter,
    is_continued,
    load_model,
    load_tokenizer,
    make_reference,
    make_trainable,
)
from diffdpo.text.order import in_order
from diffdpo.text.rows import TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings, text_objective
from diffdpo.text.task import TextTask, make_task
from diffdpo.text.validation import Validation


def main(settings: TextSettings) -> int:
    """Train, from loading to export; returns the exit code."""
    train(settings, begin(settings))
    return 0


@dataclass(frozen=True)
class TextObjects:
    """Objects that a program has in memory, in place of those that the settings name."""

    dataset: Dataset | None = None
    eval_dataset: Dataset | None = None
    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


def resolved(settings: TextSettings, accelerator: Accelerator) -> TextSettings:
    """Every setting at its final value, as config.yaml will hold it."""
    return replace(with_bundled(settings), mixed_precision=accelerator.mixed_precision)


@dataclass
class TextRun:
    """All that a run needs, loaded and moved to its device."""

    settings: TextSettings
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    rows: TextRows
    held_out: TextRows | None
    scorer: TokenScorer
    task: TextTask
    reference: Reference


def train(
    settings: TextSettings,
    accelerator: Accelerator,
    objects: TextObjects = TextObjects(),
    on_step: StepCallback | None = None,
) -> TrainingResult:
    """One run, from loading to export. ``on_step`` gets the record of every step."""
    run = prepare_text(settings, accelerator, objects)
    settings = run.settings
    rows = in_order(run.rows, settings, accelerator.num_processes)
    trainer = Trainer(
        accelerator, settings, run.scorer, run.task, run.reference, run.objective, rows, say
    )
    trainer.recorder.on_step = on_step
    check_mismatch(run.objective, trainer.effective_batch)

    def validation() -> Validation | None:
        return held_out_measures(run, trainer)

    def write(last: Mapping[str, float]) -> Path:
        return export(run.scorer.network, run.tokenizer, settings, last)

    preview = run.rows.preview(settings.preview)
    finished = carry_out(settings, trainer, text_facts(run, trainer), validation, write, preview)
    return TrainingResult(Path(settings.output_dir), finished, run.scorer.network)


def prepare_text(
    settings: TextSettings, accelerator: Accelerator, objects: TextObjects = TextObjects()
) -> TextRun:
    """Load model and rows, and read stored reference scores, or compute and store them."""
    settings = resolved(settings, accelerator)
    name = str(settings.model_name_or_path)
    network = objects.model or load_model(name, "model_name_or_path", settings)
    tokenizer = objects.tokenizer or load_tokenizer(network, settings)
    objective = text_objective(settings)
    rows, held_out = open_training_rows(
        settings,
        tokenizer,
        objective.paired,
        not accelerator.is_local_main_process,
        (objects.dataset, objects.eval_dataset),
    )
    check_vocabulary(rows, len(network.get_input_embeddings().weight))  # type: ignore[arg-type]
    scorer = make_trainable(network, settings, accelerator.device)
    reference = make_reference(scorer, settings, objective.reference_free)
    task = make_task(settings, objective, accelerator)
    run = TextRun(settings, tokenizer, objective, rows, held_out, scorer, task, reference)
    if settings.precompute_ref_log_probs:
        store_reference(run, settings, accelerator)
    return run


def store_reference(run: TextRun, settings: TextSettings, accelerator: Accelerator) -> None:
    """Replace the reference by its stored scores, for the rows of training and held-out ones."""
    live = run.reference
    with live.network(run.scorer) as network:
        reference = network_digest(network)
    batch, root = settings.train_batch_size, settings.precompute_dir
    for rows in filter(None, (run.held_out, run.rows)):
        facts = {"tokens": rows.fingerprint, "reference": reference}
        key = Key.of("reference", settings, SCORES, facts)
        scored, run.reference = score_rows(
            rows, run.task, run.scorer, live, 1, batch, key, root, accelerator
        )
        # One draw, visit 0: a text has no timestep and no noise, so that its score never changes.
        rows.items = [scored.read(number, 0) for number in range(len(rows))]


def held_out_measures(run: TextRun, trainer: Trainer) -> Validation | None:
    """Measures on held-out rows during training; None where there are none."""
    settings = run.settings
    if run.held_out is None:
        return None
    every = settings.eval_steps if settings.eval_strategy == "steps" else trainer.steps_per_epoch
    return Validation(
        settings,
        run.scorer,
        run.reference,
        run.objective,
        run.held_out,
        trainer.accelerator,
        every,
    )


def check_mismatch(objective: Objective, effective_batch: int) -> None:
    """Raise UserError where KTO has no other completion to measure its reference point with."""
    if effective_batch < 2 and objective.needs_kl:
        raise UserError(
            "--loss_type kto pairs prompts with completions of other rows: take 2 rows or more per"
            " step"
        )


def text_facts(run: TextRun, trainer: Trainer) -> dict[str, str]:
    """The facts of a run, for the lines at its start."""
    settings, objective, rows, scorer = run.settings, run.objective, run.rows, run.scorer
    trained, tally = sum(weight.numel() for weight in trainer.parameters), rows.tally
    kind = "full fine-tune"
    if is_adapter(scorer.network):
        kind = (
            "the loaded adapter, trained further"
            if is_continued(scorer.network)
            else f"LoRA rank {settings.lora_r}"
        )
    close = (
        f", {tally.close} below the score margin" if settings.min_score_margin is not None else ""
    )
    family, what = type(scorer.network).__name__, "pairs" if objective.paired else "labelled items"
    lines = {
        "model": (
            f"{settings.model_name_or_path} ({family}, {settings.mixed_precision} mixed precision)"
        ),
        "rows": (
            f"{len(rows):,} {what} of {tally.rows:,} rows ({tally.format}), {len(tally.bad)}"
            f" unusable{close}"
        ),
        "length": (
            f"{tally.prompts_cut} prompts and {tally.completions_cut} completions cut to"
            f" {settings.max_length}"
        ),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": (
            " + ".join(f"{term.weight:g} {term.name}" for term in objective.terms)
            + f"; beta {settings.beta:g}"
        ),
        **trainer.plan(what),
    }
    if tally.bad:
        lines["skipped"] = "; ".join(tally.bad[:3])
    return lines | balance(settings, objective, rows)


def balance(settings: TextSettings, objective: Objective, rows: TextRows) -> dict[str, str]:
    """The counts of both labels, and weights that would balance them.

    Ethayarajh et al. 2024 advise a weighted ratio between 1 and 4/3.
    """
    if objective.paired:
        return {}
    good = sum(bool(item.desirable) for item in rows.items)
    bad = len(rows) - good
    line = f"{good:,} desirable, {bad:,} undesirable"
    ratio = settings.desirable_weight * good / max(1e-9, settings.undesirable_weight * bad)
    if good and bad and not 1 <= ratio <= 4 / 3:
        up = good < bad
        flag, weight = ("desirable", bad / good) if up else ("undesirable", good / bad)
        line += f"; weighted {ratio:.2f} to 1, --{flag}_weight {weight:.3g} balances them"
    return {"labels": line}
