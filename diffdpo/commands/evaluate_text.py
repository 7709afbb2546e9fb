"""Language model against its reference: reward of what they write, KL, held-out implicit accuracy,
report.

The controlled experiment of Rafailov et al. 2023 (section 6.1, figure 2 left) in small: both models
continue the same held-out prefixes, a rule-based reward scores the texts, and the KL says what the
reward cost."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diffdpo.config import BaseSettings, flag, parse
from diffdpo.data.bundled import bundled
from diffdpo.data.source import open_dataset
from diffdpo.draws import epoch_order
from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.metrics.intervals import Estimate
from diffdpo.metrics.sentiment import load_sentiment
from diffdpo.report.page import Report
from diffdpo.text.comparison import HeldOut, Written, compare, write
from diffdpo.text.defaults import MODEL, PAIRS, PREFIXES
from diffdpo.text.generate import SampleSettings
from diffdpo.text.network import load_model, load_tokenizer
from diffdpo.text.rows import RowSettings, TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask

SHOWN = 12


@dataclass
class EvaluateTextSettings(BaseSettings):
    """All flags of ``evaluate_text.py``."""

    policy: str | None = flag(None, "the output folder of a finished run")
    model_name_or_path: str | None = flag(
        None, "the reference; default: the bundled model", ["--reference"]
    )
    dataset_name: str | None = flag(
        None, "held-out pairs: hub id, folder or file; default: the bundled ones"
    )
    prompts_name: str | None = flag(
        None, "rows whose prompts are continued; default: bundled prefixes, or the pairs"
    )
    split: str = flag("test", "split of both", ["--dataset_test_split"])
    output_dir: str = flag("runs/text-evaluation", "where evaluation.json and report.html go")
    num_prompts: int = flag(400, "at most so many distinct prompts")
    samples_per_prompt: int = flag(2, "continuations of each, by either model")
    max_new_tokens: int = flag(64, "a continuation is cut here")
    max_length: int | None = flag(1024, "tokens of prompt and completion in the pairs")
    batch_size: int = flag(64, "rows at once")
    seed: int = flag(0, "of the choice of prompts, the sampling and the intervals")

    def problems(self) -> list[str]:
        found = [] if self.policy else ["--policy is needed: the output folder of a finished run"]
        for name in ("num_prompts", "samples_per_prompt", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                found.append(f"--{name} must be at least 1, got {getattr(self, name)}")
        if (self.model_name_or_path is None) != (self.dataset_name is None):
            found.append(
                "--model_name_or_path and --dataset_name: name both, or none for the bundled ones"
            )
        return found


def main(argv: list[str]) -> int:
    """Load, sample, score, write; returns the exit code."""
    settings, notices = parse(EvaluateTextSettings, argv)
    say(*notices)
    name_bundled(settings)
    folder = writable(settings.output_dir)
    held_out = open_held_out(settings)
    policy = load_scorer(str(settings.policy), "policy", held_out.task.device)
    check_tokens(policy, held_out)
    before = write(held_out, held_out.reference, "reference writes")
    after = write(held_out, policy, "policy writes")
    found = compare(held_out, policy, before, after)
    result = {
        "policy": settings.policy,
        **{k: v.as_dict() for k, v in found.items()},
        "settings": asdict(settings),
    }
    write_atomically(folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    write_report(settings, found, rows_side_by_side(held_out, before, after), folder)
    tell(found, folder)
    return 0


def name_bundled(settings: EvaluateTextSettings) -> None:
    """Where no model is named, the bundled one with its held-out texts; where no prompts are, those
    of the pairs."""
    if settings.model_name_or_path is None:
        settings.model_name_or_path, settings.dataset_name = bundled(MODEL), bundled(PAIRS)
        settings.prompts_name = settings.prompts_name or bundled(PREFIXES)
    settings.prompts_name = settings.prompts_name or settings.dataset_name


def open_held_out(settings: EvaluateTextSettings) -> HeldOut:
    """Reference, pairs and prompts. Raises UserError for whatever cannot be opened."""
    reward = load_sentiment()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reference = load_scorer(str(settings.model_name_or_path), "model_name_or_path", device)
    tokenizer = load_tokenizer(
        reference.network, TextSettings(model_name_or_path=settings.model_name_or_path)
    )
    pairs = read_rows(settings, str(settings.dataset_name), tokenizer, paired=True)
    # Pairs are read one side at a time here, so that rows of either kind give their prompts.
    asked = read_rows(settings, str(settings.prompts_name), tokenizer, paired=False)
    prompts = list(dict.fromkeys(tuple(item.prompt) for item in asked.items if item.prompt))
    if not prompts:
        raise UserError(f"--prompts_name {settings.prompts_name}: no row has a prompt")
    picked = epoch_order(settings.seed, -1, len(prompts))[: settings.num_prompts]
    how = SampleSettings(
        settings.seed, settings.samples_per_prompt, settings.max_new_tokens, settings.batch_size
    )
    task = TextTask(device, nullcontext)
    return HeldOut(reference, tokenizer, task, [prompts[i] for i in picked], pairs, reward, how)


def read_rows(
    settings: EvaluateTextSettings, name: str, tokenizer: PreTrainedTokenizerBase, paired: bool
) -> TextRows:
    """The rows of the split that is held out."""
    return TextRows(
        open_dataset(name, settings.split), tokenizer, RowSettings(settings.max_length, paired)
    )


def load_scorer(name: str, flag_name: str, device: torch.device) -> TokenScorer:
    """A model or adapter in float32. Raises UserError where there is none."""
    network: Any = load_model(name, flag_name, TextSettings())
    return TokenScorer(network.to(device).eval())


def check_tokens(policy: TokenScorer, held_out: HeldOut) -> None:
    """Raises UserError where policy and reference do not read the same tokens."""
    sizes = [s.network.config.get_text_config().vocab_size for s in (policy, held_out.reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"--policy: its vocabulary has {sizes[0]} tokens, the reference's {sizes[1]}"
        )


def rows_side_by_side(held_out: HeldOut, before: Written, after: Written) -> list[list[str]]:
    """The first continuation of the first prompts, with its reward, by either model; chosen by
    nothing else."""
    every = held_out.how.visits
    firsts = range(0, min(len(before.texts), SHOWN * every), every)
    return [[f"{w.texts[i]} ({w.rewards[i]:+.2f})" for w in (before, after)] for i in firsts]


def plain(found: Estimate, digits: int = 3) -> str:
    """'0.312 [0.271, 0.354]'."""
    low, high = found.interval
    return f"{found.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{found.caution}"


def tell(found: dict[str, Estimate], folder: Path) -> None:
    """The result in a few lines."""
    difference = found["difference"]
    doubt = (
        " (not significant: the interval holds 0)"
        if difference.interval[0] <= 0 <= difference.interval[1]
        else ""
    )
    means = [f"{who} {found[f'{who}_reward'].value:.3f}" for who in ("policy", "reference")]
    say(
        f"implicit     {found['implicit_accuracy'].percent()} accuracy on"
        f" {found['implicit_accuracy'].n} held-out pairs"
    )
    say(
        f"win rate     {found['win_rate'].percent()}, {difference.n} texts of {difference.clusters}"
        " prompts"
    )
    say(f"reward       {', '.join(means)} (VADER, -1 to 1)")
    say(f"difference   {plain(difference)}{doubt}")
    say(f"KL           {plain(found['kl'], 1)} nats a text")
    say(f"report       {folder / 'report.html'}")


ROWS = {"implicit_accuracy": "held-out implicit accuracy", "win_rate": "win rate"}
ROWS |= {
    "policy_reward": "reward, policy",
    "reference_reward": "reward, reference",
    "difference": "difference",
}
ROWS |= {
    "kl": "KL, nats a text",
    "policy_tokens": "tokens, policy",
    "reference_tokens": "tokens, reference",
}


def write_report(
    settings: EvaluateTextSettings, found: dict[str, Estimate], texts: list[list[str]], to: Path
) -> None:
    """report.html: result, texts side by side, curves, settings."""
    run, difference = Path(str(settings.policy)), found["difference"]
    report = Report(f"{run.name}: policy against reference")
    how = (
        f"{difference.n} texts of {difference.clusters} held-out prompts, the same random numbers,"
        " temperature 1"
    )
    headline = (
        f"Reward {plain(found['policy_reward'], 2)}, reference"
        f" {plain(found['reference_reward'], 2)}"
    )
    report.headline(
        headline, f"VADER's compound score; {how}. KL {plain(found['kl'], 1)} nats a text."
    )
    report.section("Figures", "95 % intervals by bootstrap over prompts; the difference is paired.")
    report.table(
        ["", "mean and interval"], [[title, plain(found[name])] for name, title in ROWS.items()]
    )
    report.section(
        "Side by side",
        "The first prompts, chosen by the seed alone; the reward of each in brackets.",
    )
    report.table(["reference", "policy"], texts)
    report.about_run(run, asdict(settings))
    report.save(to / "report.html")
