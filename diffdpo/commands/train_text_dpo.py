"""Text preference training, from flags to exported result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from diffdpo.cache.keys import SCORES, Key, network_digest
from diffdpo.cache.scores import score_rows
from diffdpo.engine.callbacks import Callbacks
from diffdpo.engine.console import say
from diffdpo.engine.load_once import hollow, loads_once, maker
from diffdpo.engine.plan import Plan
from diffdpo.engine.run import TrainingResult, carry_out
from diffdpo.engine.run_folder import begin
from diffdpo.engine.sharding import first_place, is_sharded
from diffdpo.engine.trained_on import keep_record
from diffdpo.engine.trainer import Trainer
from diffdpo.engine.waiting import meet
from diffdpo.errors import UserError
from diffdpo.objective.terms import Objective
from diffdpo.reference import Reference
from diffdpo.text.facts import text_facts
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.flags.train_settings import with_whole_steps
from diffdpo.text.model.export import export
from diffdpo.text.model.limits import check_rows, check_same_tokens
from diffdpo.text.model.loading import load_model
from diffdpo.text.model.network import (
    frozen_storage,
    make_reference,
    make_trainable,
    save_activations,
)
from diffdpo.text.reading.inputs import InMemory, open_training_rows, with_bundled_reviews
from diffdpo.text.reading.order import in_order
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.sampling.comparison import texts_of
from diffdpo.text.sampling.validation import Validation, count_trained_on
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask, make_task
from diffdpo.text.tokens.template import template_text
from diffdpo.text.vision.models import sighted
from diffdpo.text.vision.rows import check_processes, sight_of
from diffdpo.text.vision.words import open_words


def main(settings: TextSettings) -> int:
    """Train, from loading to export; returns the exit code."""
    return train(settings, begin(settings)).exit_code


@dataclass(frozen=True)
class TextObjects:
    """Objects that a program has in memory, in place of those that the settings name."""

    data: InMemory = InMemory()
    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | ProcessorMixin | None = None


def resolved(settings: TextSettings, accelerator: Accelerator) -> TextSettings:
    """Every setting at its final value, as config.yaml will hold it."""
    return replace(
        with_bundled_reviews(settings.in_plain_flags()),
        mixed_precision=accelerator.mixed_precision,
        dataloader_num_workers=settings.workers_on(accelerator.device.type),
        use_8bit_adam=settings.eight_bit,
        use_paged_adam=settings.paged,
        use_adafactor=settings.adafactor,
        # The text itself, so that the record holds also where a file is changed later.
        chat_template=template_text(settings),
        metric_for_best_model=settings.best_by or settings.metric_for_best_model,
    )


@dataclass
class TextRun:
    """All that a run needs, loaded and moved to its device."""

    settings: TextSettings
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    rows: TextRows
    held_out: dict[str, TextRows]  # by name; '' of one that has none
    scorer: TokenScorer
    task: TextTask
    reference: Reference


def train(
    settings: TextSettings,
    accelerator: Accelerator,
    objects: TextObjects = TextObjects(),
    callbacks: Callbacks | None = None,
) -> TrainingResult:
    """One run, from loading to export; ``callbacks`` hear of it."""
    run = prepare_text(settings, accelerator, objects)
    meet()  # one process may have read its data for longer than a group of training waits
    rows = in_order(run.rows, run.settings, accelerator.num_processes)
    plan = Plan(run.settings, len(rows), accelerator.num_processes)
    run.settings = settings = with_whole_steps(run.settings, plan.total_steps)
    trainer = Trainer(
        accelerator, settings, run.scorer, run.task, run.reference, run.objective, rows, say
    )
    trainer.listen(callbacks or Callbacks())
    check_mismatch(run.objective, trainer.plan.effective_batch)
    check_sync(settings, plan.total_steps)

    def validation() -> Validation | None:
        return held_out_measures(run, trainer)

    def write(last: Mapping[str, float]) -> Path:
        if not settings.streaming:  # it would read all rows once more
            keep_record(Path(settings.output_dir), **texts_of(run.rows))
        sight = sight_of(run.rows)
        words = sight.exported(run.tokenizer) if sight else run.tokenizer
        return export(run.scorer.network, words, settings, last)

    preview = run.rows.preview(settings.preview)
    finished = carry_out(
        settings,
        trainer,
        text_facts(settings, run.objective, run.rows, run.held_out, run.scorer, trainer),
        validation,
        write,
        preview,
    )
    return TrainingResult(Path(settings.output_dir), finished, run.scorer.network)


def prepare_text(
    settings: TextSettings, accelerator: Accelerator, objects: TextObjects = TextObjects()
) -> TextRun:
    """Load model and rows, and read stored reference scores, or compute and store them."""
    settings = resolved(settings, accelerator)
    name = str(settings.model_name_or_path)
    # Before training, to score with it, or, in few bits, for good.
    runs_whole = settings.precompute_ref_log_probs or settings.base_bits not in (None, "bf16")
    made = maker(accelerator, loads_once(accelerator, runs_whole) and objects.model is None)
    if objects.model is not None and settings.base_bits not in (None, "bf16"):
        raise UserError(f"{settings.bits_flag} is one of loading, and this model is in memory")
    frozen = frozen_storage(settings)
    (network,) = made(
        lambda: (objects.model or load_model(name, "model_name_or_path", settings, frozen),)
    )
    tokenizer, eyes = open_words(network, settings, objects.tokenizer)
    objective = text_objective(settings)
    rows, held_out = open_training_rows(
        settings, tokenizer, objective.paired, accelerator, objects.data, eyes
    )
    sight = sight_of(rows)
    check_processes(rows, network, settings.use_peft, accelerator)
    check_rows(network, "model_name_or_path", name, rows, *held_out.values())
    place = first_place(accelerator, runs_whole)
    (scorer,) = made(lambda: (sighted(make_trainable(network, settings, place), sight, name),))
    save_activations(scorer.network, settings)
    copied = hollow if is_sharded(accelerator) else copy.deepcopy
    # Of a model in memory its name does not tell the weights.
    apart = is_sharded(accelerator) or objects.model is not None
    reference = make_reference(scorer, settings, objective.reference_free, made, copied, apart)
    task = make_task(settings, objective, accelerator, scorer.rule)
    run = TextRun(settings, tokenizer, objective, rows, held_out, scorer, task, reference)
    if settings.ref_model_name_or_path and not objective.reference_free:
        check_reference(run)
    if settings.precompute_ref_log_probs:
        store_reference(run, settings, accelerator)
    return run


def check_reference(run: TextRun) -> None:
    """Raise UserError where the reference is another model that reads the rows otherwise; it gets
    the sight of the rows' pictures."""
    with run.reference.network(run.scorer) as network:
        other: Any = network
        rows = run.rows, *run.held_out.values()
        check_same_tokens(other.network, run.tokenizer, run.settings, *rows)
        sighted(other, sight_of(run.rows), str(run.settings.ref_model_name_or_path))


def store_reference(run: TextRun, settings: TextSettings, accelerator: Accelerator) -> None:
    """Replace the reference by its stored scores, for the rows of training and held-out ones."""
    live = run.reference
    with live.network(run.scorer) as network:
        reference = network_digest(network)
    batch, root = settings.train_batch_size, settings.precompute_dir
    for rows in (*run.held_out.values(), run.rows):
        facts = {"tokens": rows.fingerprint, "reference": reference}
        key = Key.of("reference", settings, SCORES, facts)
        workers = settings.workers_on(accelerator.device.type)
        scored, run.reference = score_rows(
            rows, run.task, run.scorer, live, batch, key, root, accelerator, workers
        )
        # One draw, visit 0: a text has no timestep and no noise, so that its score never changes.
        rows.reference = scored.scores


def held_out_measures(run: TextRun, trainer: Trainer) -> Validation | None:
    """Measures on held-out rows during training; None where there are none."""
    settings = run.settings
    if not run.held_out:
        if settings.keep_best:
            raise UserError("--keep_best: no rows to judge by are measured; add --eval_strategy")
        return None
    by_steps = settings.eval_strategy == "steps"
    every = int(settings.eval_steps) if by_steps else trainer.plan.steps_per_epoch
    return Validation(
        settings,
        run.scorer,
        run.reference,
        run.objective,
        run.held_out,
        trainer.accelerator,
        every,
        trainer.plan.total_steps,
        {
            name: None if settings.streaming else count_trained_on(rows, run.rows)
            for name, rows in run.held_out.items()
        },
    )


def check_sync(settings: TextSettings, steps: int) -> None:
    """Raise UserError where a reference that moves never does within the run."""
    if settings.sync_ref_model and settings.sync_steps > steps:
        raise UserError(
            f"--ref_model_sync_steps {settings.sync_steps}: the run has {steps} steps, so that the"
            " reference never moves; name fewer"
        )


def check_mismatch(objective: Objective, effective_batch: int) -> None:
    """Raise UserError where KTO has no other completion to measure its reference point with."""
    if effective_batch < 2 and objective.needs_kl:
        raise UserError(
            "--loss_type kto pairs prompts with completions of other rows: take 2 rows or more per"
            " step"
        )
