"""Text preference training, from flags to exported result."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from diffdpo.cache.keys import SCORES, Key, network_digest
from diffdpo.cache.scores import score_rows
from diffdpo.config import parse
from diffdpo.data.bundled import bundled
from diffdpo.data.source import open_dataset
from diffdpo.engine.console import say, start_lines
from diffdpo.engine.run_folder import begin, conclude, start_records
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import UserError
from diffdpo.objective import Objective
from diffdpo.reference import Reference
from diffdpo.text.defaults import MODEL, PAIRS
from diffdpo.text.export import export
from diffdpo.text.network import (
    is_adapter,
    is_continued,
    load_model,
    load_tokenizer,
    make_reference,
    make_trainable,
)
from diffdpo.text.order import in_order
from diffdpo.text.rows import RowSettings, TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings, text_objective
from diffdpo.text.task import TextTask, make_task
from diffdpo.text.validation import Validation

RECIPE = "scripts/recipes/reviews.yaml"
OWN = ("--model_name_or_path", "--dataset_name", "--config", "-h", "--help")


def main(argv: list[str]) -> int:
    """Parse, check, say what will happen, train, export; returns the exit code."""
    settings, notices = read_settings(argv)
    train(settings, begin(settings, notices))
    return 0


def read_settings(argv: list[str]) -> tuple[TextSettings, list[str]]:
    """The settings and notices about flags; where neither model nor data is named, those of the
    bundled run.

    Raises UserError where only one of the two is named.
    """
    own = any(word.split("=")[0] in OWN for word in argv)
    settings, notices = parse(TextSettings, argv, base=None if own else bundled(RECIPE))
    if settings.model_name_or_path is None and settings.dataset_name is None:
        settings.model_name_or_path, settings.dataset_name = bundled(MODEL), bundled(PAIRS)
    if settings.model_name_or_path is None or settings.dataset_name is None:
        raise UserError(
            "--model_name_or_path and --dataset_name: name both, or none for the bundled ones"
        )
    if settings.bf16 or settings.fp16:
        settings.mixed_precision = "bf16" if settings.bf16 else "fp16"
    return settings, notices


@dataclass
class Prepared:
    """All that a run needs beside its settings, loaded and in place."""

    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    rows: TextRows
    held_out: TextRows | None
    scorer: TokenScorer
    task: TextTask
    reference: Reference


def train(settings: TextSettings, accelerator: Accelerator) -> None:
    """One run, from loading to export."""
    run = prepare(settings, accelerator)
    rows = in_order(run.rows, settings, accelerator.num_processes)
    trainer = Trainer(
        accelerator, settings, run.scorer, run.task, run.reference, run.objective, rows, say
    )
    check_mismatch(run.objective, trainer.effective_batch)
    start_lines(facts(settings, run.objective, run.rows, run.scorer, trainer))
    say(*(f"preview      {line}" for line in run.rows.preview(settings.preview)))
    start_records(settings, accelerator)
    done = fit(settings, accelerator, trainer, run)

    def write() -> Path:
        return export(run.scorer.network, run.tokenizer, settings, trainer.recorder.journal.last())

    conclude(settings, accelerator, done, trainer.total_steps, write)


def prepare(settings: TextSettings, accelerator: Accelerator) -> Prepared:
    """Load model and rows; read or compute what is kept on disk."""
    network = load_model(str(settings.model_name_or_path), "model_name_or_path", settings)
    tokenizer = load_tokenizer(network, settings)
    objective = text_objective(settings)
    rows, held_out = load_rows(
        settings, tokenizer, objective.paired, not accelerator.is_local_main_process
    )
    check_vocabulary(rows, len(network.get_input_embeddings().weight))  # type: ignore[arg-type]
    scorer = make_trainable(network, settings, accelerator.device)
    reference = make_reference(scorer, settings, objective.reference_free)
    task = make_task(settings, objective, accelerator)
    run = Prepared(tokenizer, objective, rows, held_out, scorer, task, reference)
    if settings.precompute_ref_log_probs:
        store_reference(run, settings, accelerator)
    return run


def store_reference(run: Prepared, settings: TextSettings, accelerator: Accelerator) -> None:
    """Put stored scores in place of the reference, for the rows to train on and those to measure
    on."""
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
        rows.items = [scored.read(number, 0) for number in range(len(rows))]


def fit(settings: TextSettings, accelerator: Accelerator, trainer: Trainer, run: Prepared) -> int:
    """Train, measuring on held-out rows where there are some; returns the steps done."""
    if run.held_out is None:
        return trainer.fit()
    every = settings.eval_steps if settings.eval_strategy == "steps" else trainer.steps_per_epoch
    validation = Validation(
        settings, run.scorer, run.reference, run.objective, run.held_out, accelerator, every
    )
    done = trainer.fit(validation.after_step)
    if done == trainer.total_steps:
        validation.final(done)
    return done


def load_rows(
    settings: TextSettings, tokenizer: PreTrainedTokenizerBase, paired: bool, quiet: bool
) -> tuple[TextRows, TextRows | None]:
    """The rows to train on and, where that is asked for, those to measure on, tokenised and
    checked.

    Raises UserError where the two are the same.
    """

    def read(name: str, split: str) -> TextRows:
        how = RowSettings(
            settings.max_length, paired, settings.soft_label_scale, settings.min_score_margin
        )
        dataset = open_dataset(name, split, settings.dataset_config, settings.cache_dir)
        return TextRows(dataset, tokenizer, how, quiet)

    name, held_out = str(settings.dataset_name), None
    rows = read(name, settings.dataset_train_split)
    rows.limit(settings.max_train_samples, settings.seed)
    if settings.eval_strategy != "no":
        name = settings.eval_dataset_name or name
        held_out = read(name, settings.dataset_test_split)
        if held_out.all_in(rows):
            raise UserError(
                f"--eval_strategy: all rows of {name} are trained on; name others with"
                " --eval_dataset_name"
            )
    return rows, held_out


def check_vocabulary(rows: TextRows, known: int) -> None:
    """Raises UserError where the tokenizer knows tokens that the model does not."""
    largest = max(max(chain(item.prompt, *item.completions)) for item in rows.items)
    if largest >= known:
        raise UserError(
            f"--model_name_or_path: the tokenizer gives token {largest}, the model knows {known}"
            " tokens"
        )


def check_mismatch(objective: Objective, effective_batch: int) -> None:
    """Raises UserError where KTO finds no other completion to measure its reference point with."""
    if effective_batch < 2 and objective.needs_kl:
        raise UserError(
            "--loss_type kto pairs prompts with completions of other rows: take 2 rows or more per"
            " step"
        )


def facts(
    settings: TextSettings,
    objective: Objective,
    rows: TextRows,
    scorer: TokenScorer,
    trainer: Trainer,
) -> dict[str, str]:
    """What will happen, for the lines at the start."""
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
    """Class counts, and weights that bring their ratio into the 1 to 4/3 that Ethayarajh et al.
    2024 advise."""
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
