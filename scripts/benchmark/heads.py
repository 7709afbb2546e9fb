"""The output head alone: seconds and memory of log-probabilities and their gradients, ours beside
plain PyTorch and TRL's, at a real vocabulary."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from diffdpo.config import BaseSettings
from diffdpo.engine.accelerator import sampling_device
from diffdpo.engine.console import say
from diffdpo.flags import flag
from diffdpo.text.scoring.logprob import LOGP
from diffdpo.text.scoring.scorer import TokenScorer
from scripts.benchmark.contestant import ROOT, environment
from scripts.benchmark.gate import now
from scripts.benchmark.machine import card, card_slug, cores, describe
from scripts.benchmark.memory import MIB, peak_memory
from scripts.benchmark.output import write_result
from scripts.benchmark.subjects import has_trl
from scripts.benchmark.tables import seconds, table

HEAD = ("head", "forward and backward, s", "memory, MiB", "largest difference to float64, nats")
WORDS = """Log-probabilities of {positions} tokens out of {vocabulary} from states {width} wide, and
the gradients of both, in {precision}. Memory is the highest above what states and weights take,
their gradients included; without a card it is the resident memory of the process. The difference
is to float64 of the same states and weights, at 64 of the tokens."""
CHECKED = 64  # positions
ROUNDS = 2  # timed, after one that is not


@dataclass(frozen=True)
class HeadSettings(BaseSettings):
    """All flags of ``python scripts/benchmark head``."""

    positions: int = flag(640, "scored tokens", least=CHECKED)
    vocabulary: int = flag(151_936, "words; the default is that of Qwen2.5", least=2)
    width: int = flag(128, "of the hidden states", least=8)
    threads: int | None = flag(None, "CPU threads; default: all cores", least=1)
    only: str | None = flag(None, "measure this head in this process, and print a line of JSON")
    output: str | None = flag(
        None, "where .json and .md go; default: the checkout's assets/head, with the card's name"
    )


def naive(scorer: TokenScorer, hidden_PC: Tensor, target_P: Tensor) -> Tensor:
    """All logits at once, in float32 under a log-softmax."""
    logits_PV = scorer.network.get_output_embeddings()(hidden_PC).float()  # type: ignore[misc]
    return logits_PV.log_softmax(1).gather(1, target_P[:, None])[:, 0]


def ours(scorer: TokenScorer, hidden_PC: Tensor, target_P: Tensor) -> Tensor:
    """As a training step does it, its token metrics included."""
    return scorer.log_probabilities(hidden_PC, target_P)[:, LOGP]


def trl(scorer: TokenScorer, hidden_PC: Tensor, target_P: Tensor) -> Tensor:
    """The function under the head of TRL's DPOTrainer, with the metrics that it reports."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as AT_ONCE

    weight: Any = scorer.network.get_output_embeddings().weight  # type: ignore[union-attr]
    metrics = ("entropy", "mean_logits", "is_top1")
    outputs = ChunkedLogProbFunction.apply(
        hidden_PC, weight, None, target_P, 1.0, AT_ONCE, None, 1.0, metrics
    )
    logp_P: Tensor = outputs[0]  # type: ignore[index]
    return logp_P


HEADS: dict[str, Callable[[TokenScorer, Tensor, Tensor], Tensor]] = {
    "naive": naive,
    "ours": ours,
    "trl": trl,
}


def main(settings: HeadSettings) -> int:
    """A process for each head, so that memory is its own; then the table."""
    if settings.only:
        print(json.dumps(measured(settings.only, settings)))
        return 0
    threads = settings.threads or cores()
    names = [name for name in HEADS if name != "trl" or has_trl()]
    results = {name: in_a_process(name, settings, threads) for name in names}
    facts = ", ".join(f"{name} {fact}" for name, fact in describe(threads).items())
    words = WORDS.format(precision="bfloat16" if card() else "float32", **asdict(settings))
    rows = [(name, seconds(one["wall"]), f"{one['memory']:,.0f}", f"{one['error']:.1g}")
            for name, one in results.items()]  # fmt: skip
    page = f"# The output head\n\n{facts}.\n\n{words}\n\n{table(HEAD, rows)}\n"
    output = settings.output or str(ROOT / "assets" / f"head{card_slug()}")
    content = {"machine": describe(threads), "settings": asdict(settings), "heads": results}
    write_result(output, md=page, json=json.dumps(content, indent=2) + "\n")
    say(page, f"result       {output}.md and .json")
    return 0


def in_a_process(name: str, settings: HeadSettings, threads: int) -> dict[str, Any]:
    """The figures of one head, measured in a process of its own."""
    shape = [word for key in ("positions", "vocabulary", "width")
             for word in (f"--{key}", str(getattr(settings, key)))]  # fmt: skip
    words = [sys.executable, str(ROOT / "scripts" / "benchmark"), "head", "--only", name, *shape]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env=environment(threads, ROOT / "runs")
    )
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def measured(name: str, settings: HeadSettings) -> dict[str, Any]:
    """Seconds, memory and error of one head in this process."""
    torch.manual_seed(0)
    device = sampling_device()
    scorer = blank_scorer(settings).to(device)
    weight: Any = scorer.network.get_output_embeddings().weight  # type: ignore[union-attr]
    shape = settings.positions, settings.width
    hidden_PC = torch.randn(shape, device=device).requires_grad_()
    target_P = torch.randint(settings.vocabulary, (settings.positions,), device=device)
    walls, before = [], resident()
    for _ in range(1 + ROUNDS):
        hidden_PC.grad = weight.grad = None
        begin = now()[0]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logp_P = HEADS[name](scorer, hidden_PC, target_P)
        logp_P.sum().backward()
        walls.append(now()[0] - begin)
    peak = peak_memory()
    memory = peak.get("gpu", peak["ram"]) - before
    with torch.no_grad():
        few, rounded = hidden_PC[:CHECKED], torch.bfloat16 if device.type == "cuda" else None
        both = [one.to(rounded or one.dtype).double() for one in (few, weight)]
        exact_P = (both[0] @ both[1].T).log_softmax(1).gather(1, target_P[:CHECKED, None])[:, 0]
    error = float((logp_P.detach()[:CHECKED].double() - exact_P).abs().max())
    return {"wall": walls[1:], "median": statistics.median(walls[1:]),
            "memory": memory, "error": error}  # fmt: skip


def blank_scorer(settings: HeadSettings) -> TokenScorer:
    """A scorer of which the head alone matters; logits have the spread of a trained model's."""
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        tie_word_embeddings=True,
        initializer_range=3 / settings.width**0.5,
    )
    return TokenScorer(LlamaForCausalLM(config), False)


def resident() -> float:
    """MiB that are in use now: on the card where there is one, else resident."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB
