"""Compares language models with their reference: reward, KL, implicit accuracy, report.

This is the controlled experiment of Rafailov et al. 2023 (section 6.1, figure 2 left) in small:
all models continue the same prefixes, a rule-based reward scores the texts, and the KL
tells how far from the reference a policy went for its reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffdpo.data.bundled import bundled, is_bundled
from diffdpo.engine.accelerator import DTYPES, sampling_device
from diffdpo.engine.console import say
from diffdpo.engine.labels import REFERENCE
from diffdpo.engine.run_config import is_checkpoint, run_of
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.evaluation.scores import Entrant, between, entrants
from diffdpo.evaluation.text_findings import (
    TextFindings,
    TextStanding,
    rows_side_by_side,
    summary,
)
from diffdpo.evaluation.text_page import compose
from diffdpo.evaluation.texts import format_figures, scores_of_texts, text_rows
from diffdpo.metrics import open_text_rewards
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.evaluation import look_ahead, publish, writing
from diffdpo.report.page import Report
from diffdpo.text.bundled import PAIRS, PREFIXES
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.model.checkpoints import load_checkpoint
from diffdpo.text.model.limits import check_rows, check_same_words, position_count
from diffdpo.text.model.loading import find_tokenizer, load_model
from diffdpo.text.reading.inputs import with_bundled_reviews
from diffdpo.text.sampling.comparison import Comparison, Written, compare, overlaps, write
from diffdpo.text.sampling.evaluated import read_texts
from diffdpo.text.sampling.generate import SampleSettings, check_sampling
from diffdpo.text.sampling.served import ServedModel
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.task import TextTask
from diffdpo.text.vision.models import sighted
from diffdpo.text.vision.words import check_same_sight, open_words

TIMEOUT = 120.0  # seconds that a service may take for a text
NO_TOKENS = (
    "note         the service tells no tokens (return_token_ids), so there are no KL and no counts"
)


def main(settings: EvaluateTextSettings) -> int:
    """Load, sample, score, write; returns the exit code."""
    for run in settings.policy:
        look_ahead(run_of(run))
    settings = resolved(settings)
    folder = writable(settings.output_dir)
    who = entrants(settings.policy, None)
    compared = replace(open_comparison(settings), service=services(settings, who))
    first = checked(settings, compared)  # before the minutes of sampling
    title = "reference writes"
    written = {REFERENCE: write(compared, compared.reference, title, REFERENCE)}
    figures = {}
    for one in who:
        policy = first.pop() if first else load_policy(one.run, settings, compared)
        title = f"{one.label if len(who) > 1 else 'policy'} writes"
        written[one.label] = write(compared, policy, title, one.label)
        figures[one.label] = compare(compared, policy, written[REFERENCE], written[one.label])
    found = findings(compared, who, written, figures)
    if any(texts.completions is None for texts in written.values()):
        say(NO_TOKENS)
    texts = rows_side_by_side(compared, written)

    def fill(report: Report) -> None:
        data = f"Pairs: {settings.dataset_name}, split {settings.split}."
        compose(report, found, texts, [data, *settings.departures])

    base = str(settings.model_name_or_path)
    with writing(folder):
        publish(folder, settings.policy, base, settings, found.as_dict(), fill, summary(found))
    return 0


def services(settings: EvaluateTextSettings, who: Sequence[Entrant]) -> dict[str, ServedModel]:
    """The service that writes the continuations of reference and policies, by label; none where
    they are written here."""
    if settings.generator_url is None:
        return {}
    url, key = settings.generator_url, settings.generator_api_key_env
    paths = [str(settings.model_name_or_path), *settings.policy]
    labels = [REFERENCE, *(one.label for one in who)]
    names = dict(zip(labels, settings.generator_model or paths, strict=True))
    say(*(f"generator    {label}: {name} at {url}" for label, name in names.items()))
    timeout = settings.generator_timeout or TIMEOUT
    return {label: ServedModel(url, name, key, timeout) for label, name in names.items()}


def findings(
    compared: Comparison,
    who: Sequence[Entrant],
    written: Mapping[str, Written],
    figures: Mapping[str, dict[str, Estimate]],
) -> TextFindings:
    """All that is told of the evaluation."""
    scores = scores_of_texts(compared, written)
    identities = {name: dict(reward.identity) for name, reward in compared.rewards.items()}
    standings = [
        TextStanding(
            one,
            figures[one.label],
            text_rows(scores, one.label),
            format_figures(compared, written[one.label], written[REFERENCE]),
            *overlaps(str(run_of(one.run)), compared),
        )
        for one in who
    ]
    games = between(scores, next(iter(identities), None))
    how = "sampled by a service" if compared.service else "the same random numbers"
    return TextFindings(standings, identities, games, f"{how}, temperature 1")


def checked(settings: EvaluateTextSettings, compared: Comparison) -> list[TokenScorer]:
    """The first policy, once all have been loaded: each that does not fit is refused. One at a
    time is in memory."""
    check_lengths(compared.reference, compared)
    kept: list[TokenScorer] = []
    for run in reversed(settings.policy):
        kept.clear()
        kept.append(load_policy(run, settings, compared))
        check_lengths(kept[0], compared)
    return kept


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
    tokenizer, eyes = open_words(reference.network, settings)
    read = read_texts(settings, tokenizer, eyes)
    prompts = read.prompts
    sampling = SampleSettings(
        settings.seed,
        settings.samples_per_prompt,
        settings.max_new_tokens,
        settings.batch_size,
        len(tokenizer),
    )
    check_sampling(len(prompts), sampling)
    return Comparison(
        sighted(reference, read.sight, f"--model_name_or_path {name}"),
        tokenizer,
        TextTask(device, nullcontext),
        [one.tokens for one in prompts],
        [one.prompt for one in prompts],
        read.pairs,
        rewards,
        settings.reward_batch_size,
        sampling,
        [one.instructions for one in prompts] if any(one.instructions for one in prompts) else [],
        looks=[one.look for one in prompts],
        sight=read.sight,
    )


def load_scorer(
    name: str, flag_name: str, settings: EvaluateTextSettings, device: torch.device
) -> TokenScorer:
    """The scorer of a model or adapter in float32. Raises UserError where there is none."""
    network: Any = load_model(name, flag_name, settings)
    return TokenScorer(network.to(device).eval())


def load_policy(run: str, settings: EvaluateTextSettings, compared: Comparison) -> TokenScorer:
    """The scorer of a result or checkpoint. Raises UserError where there is none, and where it does
    not read the reference's tokens, or has fewer: texts of one are scored by the other."""
    device, settings = compared.task.device, replace(settings, model_revision=None)
    if is_checkpoint(Path(run)):
        trained, theirs, _ = load_checkpoint(Path(run), settings.trust_remote_code)
        whole: Any = trained.network
        scorer = TokenScorer(whole.to(device).eval())
    else:  # the revision is the reference's
        scorer = load_scorer(run, "policy", settings, device)
        theirs = find_tokenizer(run, "policy", scorer.network, settings)
    check_same_words(theirs, compared.tokenizer, "policy", run)
    check_rows(scorer.network, "policy", run, compared.pairs)
    if compared.sight:
        check_same_sight(compared.sight, run, scorer.network, settings)
    return sighted(scorer, compared.sight, f"--policy {run}")


def check_lengths(scorer: TokenScorer, compared: Comparison) -> None:
    """Raise UserError where prompts and continuations are longer than what a model reads."""
    most = position_count(scorer.network)
    longest, new = max(map(len, compared.prompts)), compared.settings.max_new_tokens
    if most and longest + new > most:
        raise UserError(
            f"--max_new_tokens {new}: after the longest prompt, {longest} tokens, that is more than"
            f" the {most} that {scorer.network.name_or_path} reads"
        )
