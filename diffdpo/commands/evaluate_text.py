"""Compares a language model with its reference: reward, KL, implicit accuracy, report.

This is the controlled experiment of Rafailov et al. 2023 (section 6.1, figure 2 left) in small:
both models continue the same prefixes, a rule-based reward scores the texts, and the KL
tells how far from the reference the policy went for its reward.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.data.bundled import bundled, is_bundled
from diffdpo.data.text.record import Record
from diffdpo.draws import epoch_order
from diffdpo.engine.accelerator import DTYPES, sampling_device
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.metrics import open_text_rewards
from diffdpo.report.evaluation import look_ahead, publish, writing
from diffdpo.report.page import Report
from diffdpo.text.bundled import PAIRS, PREFIXES
from diffdpo.text.comparison import Comparison, compare, compare_rewards, overlaps, write
from diffdpo.text.data_settings import TABLE
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.findings import Findings, compose, rows_side_by_side, summary
from diffdpo.text.generate import SampleSettings, check_sampling
from diffdpo.text.inputs import open_table, with_bundled_reviews
from diffdpo.text.limits import check_rows, check_same_words, position_count
from diffdpo.text.loading import find_tokenizer, load_model, load_tokenizer
from diffdpo.text.row_reader import RowSettings
from diffdpo.text.rows import TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.task import TextTask


def main(settings: EvaluateTextSettings) -> int:
    """Load, sample, score, write; returns the exit code."""
    settings, run = resolved(settings), str(settings.policy)
    look_ahead(run)
    folder = writable(settings.output_dir)
    compared = open_comparison(settings)
    policy = load_scorer(run, "policy", settings, compared.task.device)
    check_tokens(run, policy, compared, settings)  # before the minutes of sampling
    for scorer in (policy, compared.reference):
        check_lengths(scorer, compared)
    seen = overlaps(run, compared)
    before = write(compared, compared.reference, "reference writes")
    after = write(compared, policy, "policy writes")
    figures = compare(compared, policy, before, after)
    judged = compare_rewards(compared, before, after)
    identities = {name: dict(reward.identity) for name, reward in compared.rewards.items()}
    found = Findings(figures, judged, identities, *seen)
    texts = rows_side_by_side(compared, before, after)

    def fill(report: Report) -> None:
        data = f"Pairs: {settings.dataset_name}, split {settings.split}."
        compose(report, found, texts, [data, *settings.departures])

    base = str(settings.model_name_or_path)
    with writing(folder):
        publish(folder, run, base, settings, found.as_dict(), fill, summary(found))
    return 0


def resolved(settings: EvaluateTextSettings) -> EvaluateTextSettings:
    """Every setting at its final value: where no model is named, the bundled one with its texts;
    where no prompts are, those of the pairs.

    Prints a line where the reference is not that of training.
    """
    settings = with_bundled_reviews(settings)
    say(*(f"note         {line}" for line in settings.departures))
    data = str(settings.dataset_name)
    prompts = bundled(PREFIXES) if is_bundled(data, PAIRS) else data
    if not settings.judged_by:
        say("note         no --reward: the figures are implicit accuracy and KL")
    return replace(
        settings, prompts_name=settings.prompts_name or prompts, reward=settings.judged_by
    )


def open_comparison(settings: EvaluateTextSettings) -> Comparison:
    """Reference, pairs and prompts. Raises UserError for whatever cannot be opened."""
    device = sampling_device()
    precision = DTYPES[settings.reward_precision]
    rewards = open_text_rewards(settings.reward, settings.reward_paths, device, precision)
    name = str(settings.model_name_or_path)
    reference = load_scorer(name, "model_name_or_path", settings, device)
    tokenizer = load_tokenizer(reference.network, settings)
    pairs, _ = read_rows(settings, str(settings.dataset_name), tokenizer, paired=True)
    # Read as single items, a form that rows of pairs can be brought into as well.
    rows, table = read_rows(settings, str(settings.prompts_name), tokenizer, paired=False)
    first: dict[tuple[int, ...], int] = {}  # row of every distinct prompt
    for item in rows.items:
        first.setdefault(tuple(item.prompt), item.row)
    prompts = [(prompt, row) for prompt, row in first.items() if prompt]
    if not prompts:
        raise UserError(f"--prompts_name {settings.prompts_name}: no row has a prompt")
    picked = epoch_order(settings.seed, -1, len(prompts))[: settings.num_prompts]
    sampling = SampleSettings(
        settings.seed,
        settings.samples_per_prompt,
        settings.max_new_tokens,
        settings.batch_size,
        len(tokenizer),
    )
    check_sampling(len(picked), sampling)
    chosen = [prompts[i] for i in picked]
    return Comparison(
        reference,
        tokenizer,
        TextTask(device, nullcontext),
        [prompt for prompt, _ in chosen],
        [rows.format.read(Record(table[row])).prompt for _, row in chosen],
        pairs,
        rewards,
        settings.reward_batch_size,
        sampling,
    )


def read_rows(
    settings: EvaluateTextSettings, name: str, tokenizer: PreTrainedTokenizerBase, paired: bool
) -> tuple[TextRows, Dataset]:
    """The rows of the data set ``name`` to judge on, tokenised and as they are."""
    # Another data set has its own configuration and format.
    own = name == settings.dataset_name
    data_format = settings.data_format if own else None
    none: dict[str, Any] = dict.fromkeys(["dataset_config", *TABLE])
    table = settings if own else replace(settings, **none)
    rows, entry = open_table(name, settings.split, table, "--split")
    row_settings = RowSettings(
        settings.max_length,
        paired,
        data_format=data_format,
        truncation_mode=settings.truncation_mode,
        chat_template_kwargs=settings.chat_template_kwargs or {},
        registered=entry,
    )
    return TextRows(rows, tokenizer, row_settings, processes=settings.dataset_num_proc), rows


def load_scorer(
    name: str, flag_name: str, settings: EvaluateTextSettings, device: torch.device
) -> TokenScorer:
    """The scorer of a model or adapter in float32. Raises UserError where there is none."""
    if flag_name == "policy":  # the revision is the reference's
        settings = replace(settings, model_revision=None)
    network: Any = load_model(name, flag_name, settings)
    return TokenScorer(network.to(device).eval())


def check_tokens(
    name: str, policy: TokenScorer, compared: Comparison, settings: EvaluateTextSettings
) -> None:
    """Raise UserError where the policy does not read the reference's tokens, or has fewer."""
    # Texts of one are scored by the other, token by token.
    theirs = find_tokenizer(name, "policy", policy.network, replace(settings, model_revision=None))
    check_same_words(theirs, compared.tokenizer, "policy", name)
    check_rows(policy.network, "policy", name, compared.pairs)


def check_lengths(scorer: TokenScorer, compared: Comparison) -> None:
    """Raise UserError where prompts and continuations are longer than what a model reads."""
    most = position_count(scorer.network)
    longest, new = max(map(len, compared.prompts)), compared.settings.max_new_tokens
    if most and longest + new > most:
        raise UserError(
            f"--max_new_tokens {new}: after the longest prompt, {longest} tokens, that is more than"
            f" the {most} that {scorer.network.name_or_path} reads"
        )
