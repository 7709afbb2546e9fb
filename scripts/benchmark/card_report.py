"""The table of a card: as Markdown, and everything as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field

from scripts.benchmark.card import GOALS, HOST_GOAL, TERA, Work, pairs_a_second, peak, work_of
from scripts.benchmark.results import Result, spread
from scripts.benchmark.tables import seconds, shown, table

HEAD = ("row", "pairs a step", "step, s", "pairs a second", "tokens a second", "goal on an H100",
        "TFLOP a pair",
        "share of the peak", "host", "GPU, MiB", "RAM, MiB")  # fmt: skip
WORDS = f"""Work is counted by PyTorch over the network's shapes, attention included: of one image a
forward pass, twice that for the backward pass of a full fine-tune, once for that of a LoRA, and a
forward pass more where the reference is live; what gradient checkpointing computes again is not
counted. The peak is that of dense products in bfloat16. Host is the share of a step between network
calls and the optimizer, by the card's clock; the goal is below {HOST_GOAL:.0%}. GPU memory is that
of the steps, without what was stored before them; of language models it is that of the whole run.
Tokens are those of both completions of a pair, each with its prompt, without padding. Their work is
counted from the sizes of the layers, the output head on completions alone and the causal half of
the attention; what another program computes besides is not counted."""


@dataclass(frozen=True)
class Row:
    """One measured row, the pairs of its step, the network's forward operations and weights, and
    the tokens of a pair of completions."""

    result: Result
    pairs: int
    forward: float
    weights: int
    tokens: float | None = None

    @property
    def work(self) -> Work:
        """Operations of a pair, bytes of weights and states."""
        _, kind, variant = self.result.name.split("-")
        return work_of(kind, variant, self.forward, self.weights)

    def share(self, card: str | None) -> float | None:
        """Of the card's peak; None where either is not known."""
        best = peak(card)
        if best is None or not self.result.wall:
            return None
        rate = statistics.median(pairs_a_second(self.result, self.pairs))
        return rate * self.work.flops / best

    @property
    def tokens_a_second(self) -> list[float]:
        """Of every repetition; empty for pictures."""
        return [self.tokens * rate for rate in pairs_a_second(self.result, self.pairs)
                if self.tokens]  # fmt: skip

    @property
    def host(self) -> float | None:
        """The host's share of a step; of other people's scripts it is not known."""
        return statistics.median(self.result.host) if self.result.host else None

    def figures(self, card: str | None) -> dict[str, object]:
        """What the table shows, as numbers."""
        return {
            "name": self.result.name,
            "pairs_a_second": pairs_a_second(self.result, self.pairs),
            "tokens_a_second": self.tokens_a_second,
            "goal": GOALS.get(self.result.name),
            "flops_a_pair": self.work.flops,
            "share_of_peak": self.share(card),
            "host": self.host,
            **asdict(self.result),
        }

    def line(self, card: str | None) -> tuple[str, ...]:
        """The row of the table."""
        result = self.result
        if result.error is not None:
            return (result.name, f"failed: {result.error}".replace("|", "/"), *[""] * 9)
        share, goal, gpu = self.share(card), GOALS.get(result.name), result.gpu
        return (
            result.name,
            str(self.pairs),
            seconds(result.wall),
            shown(spread(pairs_a_second(result, self.pairs))),
            f"{statistics.median(self.tokens_a_second):,.0f}" if self.tokens else "",
            "" if goal is None else f"{goal:g}",
            f"{self.work.flops / TERA:.3g}",
            "unknown" if share is None else f"{share:.1%}",
            "" if self.host is None else f"{self.host:.1%}",
            "" if gpu is None else f"{gpu:,.0f}",
            f"{result.ram:,.0f}",
        )


@dataclass
class CardReport:
    """Machine, settings, rows and notes."""

    machine: dict[str, str]
    card: str | None
    settings: dict[str, object]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The whole page."""
        best = peak(self.card)
        facts = [*(f"{name} {fact}" for name, fact in self.machine.items()),
                 f"peak {'unknown' if best is None else f'{best / TERA:g} TFLOP/s'}",
                 *(f"{name} {value}" for name, value in self.settings.items())]  # fmt: skip
        sections = [
            f"# {self.card or 'No card'}",
            f"{', '.join(facts)}.",
            "\n".join(f"* {note}" for note in self.notes),
            WORDS,
            table(HEAD, [row.line(self.card) for row in self.rows]),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"

    def as_json(self) -> str:
        """Every figure."""
        content = {
            "machine": self.machine,
            "card": self.card,
            "peak": peak(self.card),
            "settings": self.settings,
            "notes": self.notes,
            "rows": [row.figures(self.card) for row in self.rows],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
