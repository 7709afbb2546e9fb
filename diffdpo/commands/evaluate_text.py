"""Compares a language model with its reference: reward, KL, held-out implicit accuracy, report.

This is the controlled experiment of Rafailov et al. 2023 (section 6.1, figure 2 left) in small:
both models continue the same held-out prefixes, a rule-based reward scores the texts, and the KL
tells how far from the reference the policy went for its reward.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diffdpo.data.bundled import bundled, is_bundled
from diffdpo.data.source import open_dataset
from diffdpo.draws import epoch_order
from diffdpo.engine.console import say
from diffdpo.engine.run_config import trained_on
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.metrics import TEXT_REWARDS
from diffdpo.report.evaluation import publish, say_what_is_left_out
from diffdpo.report.page import Report
from diffdpo.text.comparison import HeldOut, compare, write
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.findings import compose, rows_side_by_side, summary
from diffdpo.text.generate import SampleSettings
from diffdpo.text.inputs import PAIRS, PREFIXES, with_bundled_reviews
from diffdpo.text.network import load_model, load_tokenizer
from diffdpo.text.rows import RowSettings, TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.task import TextTask

SPLIT = "dataset_train_split"


def main(settings: EvaluateTextSettings) -> int:
    """Load, sample, score, write; returns the exit code."""
    settings = resolved(settings)
    say_what_is_left_out()
    folder = writable(settings.output_dir)
    held_out = open_held_out(settings)
    policy = load_scorer(str(settings.policy), "policy", settings, held_out.task.device)
    check_tokens(policy, held_out)  # before the minutes of sampling
    before = write(held_out, held_out.reference, "reference writes")
    after = write(held_out, policy, "policy writes")
    figures = compare(held_out, policy, before, after)
    texts = rows_side_by_side(held_out, before, after)

    def fill(report: Report) -> None:
        compose(report, settings.reward, figures, texts)

    publish(
        folder, str(settings.policy), settings, figures, fill, summary(settings.reward, figures)
    )
    return 0


def resolved(settings: EvaluateTextSettings) -> EvaluateTextSettings:
    """Every setting at its final value: where no model is named, the bundled one with its held-out
    texts; where no prompts are, those of the pairs. Says so where the pairs are those that the run
    was trained on."""
    settings = with_bundled_reviews(settings)
    data = str(settings.dataset_name)
    say(*trained_on(settings.policy, data, settings.split, SPLIT))
    prompts = bundled(PREFIXES) if is_bundled(data, PAIRS) else data
    return replace(settings, prompts_name=settings.prompts_name or prompts)


def open_held_out(settings: EvaluateTextSettings) -> HeldOut:
    """Reference, pairs and prompts. Raises UserError for whatever cannot be opened."""
    reward = TEXT_REWARDS[settings.reward]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(settings.model_name_or_path)
    reference = load_scorer(name, "model_name_or_path", settings, device)
    tokenizer = load_tokenizer(reference.network, settings)
    pairs = read_rows(settings, str(settings.dataset_name), tokenizer, paired=True)
    # Read as single items, a form that rows of pairs can be brought into as well.
    rows = read_rows(settings, str(settings.prompts_name), tokenizer, paired=False)
    prompts = list(dict.fromkeys(tuple(item.prompt) for item in rows.items if item.prompt))
    if not prompts:
        raise UserError(f"--prompts_name {settings.prompts_name}: no row has a prompt")
    picked = epoch_order(settings.seed, -1, len(prompts))[: settings.num_prompts]
    sampling = SampleSettings(
        settings.seed, settings.samples_per_prompt, settings.max_new_tokens, settings.batch_size
    )
    task = TextTask(device, nullcontext)
    return HeldOut(
        reference, tokenizer, task, [prompts[i] for i in picked], pairs, reward, sampling
    )


def read_rows(
    settings: EvaluateTextSettings, name: str, tokenizer: PreTrainedTokenizerBase, paired: bool
) -> TextRows:
    """The held-out rows of the data set ``name``."""
    # Another data set has its own configuration and format.
    own = name == settings.dataset_name
    config, data_format = (settings.dataset_config, settings.data_format) if own else (None, None)
    rows = open_dataset(name, settings.split, config, settings.cache_dir, "--split")
    row_settings = RowSettings(settings.max_length, paired, data_format=data_format)
    return TextRows(rows, tokenizer, row_settings)


def load_scorer(
    name: str, flag_name: str, settings: EvaluateTextSettings, device: torch.device
) -> TokenScorer:
    """The scorer of a model or adapter in float32. Raises UserError where there is none."""
    if flag_name == "policy":  # the revision is the reference's
        settings = replace(settings, model_revision=None)
    network: Any = load_model(name, flag_name, settings)
    return TokenScorer(network.to(device).eval())


def check_tokens(policy: TokenScorer, held_out: HeldOut) -> None:
    """Raise UserError where policy and reference have different vocabularies."""
    # Texts of one are scored by the other, token by token.
    sizes = [s.network.config.get_text_config().vocab_size for s in (policy, held_out.reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"--policy: its vocabulary has {sizes[0]} tokens, the reference's {sizes[1]}"
        )
