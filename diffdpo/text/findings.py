"""What an evaluation of a language model found, as lines and as a page."""

from __future__ import annotations

from diffdpo.metrics.intervals import Estimate
from diffdpo.report.page import Report
from diffdpo.text.comparison import HeldOut, Written

SHOWN = 12


def rows_side_by_side(held_out: HeldOut, before: Written, after: Written) -> list[list[str]]:
    """The first continuation of the first prompts, with its reward, by either model; chosen by
    nothing else."""
    every = held_out.settings.visits
    firsts = range(0, min(len(before.texts), SHOWN * every), every)
    return [[f"{w.texts[i]} ({w.rewards[i]:+.2f})" for w in (before, after)] for i in firsts]


def plain(estimate: Estimate, digits: int = 3) -> str:
    """'0.312 [0.271, 0.354]'."""
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{estimate.caution}"


def unit(reward: str) -> str:
    """What a figure of this reward is."""
    return "VADER, -1 to 1" if reward == "sentiment" else reward


def summary(reward: str, figures: dict[str, Estimate]) -> list[str]:
    """The result in a few lines."""
    difference, accuracy = figures["difference"], figures["implicit_accuracy"]
    low, high = difference.interval
    doubt = " (not significant: the interval holds 0)" if low <= 0 <= high else ""
    means = [f"{who} {figures[f'{who}_reward'].value:.3f}" for who in ("policy", "reference")]
    return [
        f"implicit     {accuracy.percent()} accuracy on {accuracy.n} held-out pairs",
        f"win rate     {figures['win_rate'].percent()}, {difference.n} texts of"
        f" {difference.clusters} prompts",
        f"reward       {', '.join(means)} ({unit(reward)})",
        f"difference   {plain(difference)}{doubt}",
        f"KL           {plain(figures['kl'], 1)} nats a text",
    ]


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


def compose(
    report: Report, reward: str, figures: dict[str, Estimate], texts: list[list[str]]
) -> None:
    """The page: result, figures, texts side by side."""
    difference, kl = figures["difference"], plain(figures["kl"], 1)
    policy, reference = (plain(figures[f"{who}_reward"], 2) for who in ("policy", "reference"))
    report.headline(
        f"Reward {policy}, reference {reference}",
        f"{unit(reward)}; {difference.n} texts of {difference.clusters} held-out prompts,"
        f" the same random numbers, temperature 1. KL {kl} nats a text.",
    )
    report.section("Figures", "95 % intervals by bootstrap over prompts; the difference is paired.")
    report.table(
        ["", "mean and interval"], [[title, plain(figures[name])] for name, title in ROWS.items()]
    )
    report.section(
        "Side by side",
        "The first prompts, chosen by the seed alone; the reward of each in brackets.",
    )
    report.table(["reference", "policy"], texts)
