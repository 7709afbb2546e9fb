"""Plots reward against KL to the reference for several betas: the controlled experiment of Rafailov
et al. 2023 in small.

    python scripts/reward_frontier.py

For every beta, and for supervised training on the chosen texts, one run of
``scripts/train_text_dpo.py`` on the bundled pairs; every checkpoint of it continues the same
held-out prefixes (their section 6.1; figure 2, left). Writes ``assets/reward-kl.png`` and the
figures beside it, ``assets/reward-kl.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from diffdpo.commands.evaluate_text import load_scorer, open_comparison, resolved
from diffdpo.engine.checkpoint import list_checkpoints, read_tensors
from diffdpo.engine.console import quiet_libraries
from diffdpo.engine.files import atomic_file, write_atomically
from diffdpo.report.plots import as_png, figure
from diffdpo.text.comparison import Comparison, Written, compare, compare_rewards, write
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.scorer import TokenScorer

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "frontier"
REWARD = "sentiment"
FIGURES = ("policy_reward", "difference", "kl", "win_rate", "implicit_accuracy", "policy_tokens")
Row = dict[str, Any]


def train(name: str, flags: list[str], every: int, epochs: float) -> Path:
    """One run of the bundled recipe with a checkpoint every so many steps; returns its folder."""
    folder = WORK / name.replace(" ", "-")
    # Checkpoints of an earlier run would be measured along with this one's.
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        "--output_dir",
        folder,
        "--checkpointing_steps",
        every,
        "--num_train_epochs",
        epochs,
        "--report_to",
        "none",
    ]
    command = [sys.executable, ROOT / "scripts" / "train_text_dpo.py", *words, *flags]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT)
    return folder


@torch.no_grad()
def load_weights(scorer: TokenScorer, path: Path) -> None:
    """Put the weights of a checkpoint into a network of the same shape."""
    # A checkpoint is no folder that transformers loads; only the last step is exported as one.
    parameters = dict(scorer.named_parameters())
    for name, weight in read_tensors(path / "trainable.safetensors").items():
        parameters[name].copy_(weight)


def measure(name: str, folder: Path, compared: Comparison, before: Written) -> list[Row]:
    """The figures of every checkpoint of a run."""
    settings, device = EvaluateTextSettings(), compared.task.device
    policy, rows = load_scorer(str(folder), "policy", settings, device), []
    for path in list_checkpoints(folder):
        load_weights(policy, path)
        after = write(compared, policy)
        figures = compare(compared, policy, before, after)
        figures |= compare_rewards(compared, before, after)[REWARD]
        step = int(path.name.split("-")[1])
        rows.append({"run": name, "step": step, **{key: figures[key].as_dict() for key in FIGURES}})
        rounded = {key: round(figures[key].value, 3) for key in FIGURES}
        print(f"{name}, step {step}: {rounded}", flush=True)
    return rows


def draw(rows: list[Row], reference: float, title: str) -> bytes:
    """The plot as PNG: a line per run, a point per checkpoint, 95 % intervals of the reward."""
    page, axes = figure(1, 1, 7.5, 4.6)
    axis = axes[0, 0]
    for name in dict.fromkeys(row["run"] for row in rows):
        line = [row for row in rows if row["run"] == name]
        kl, reward = ([row[key]["value"] for row in line] for key in ("kl", "policy_reward"))
        edges = [row["policy_reward"]["interval"] for row in line]
        spread = [[r - low for r, (low, _) in zip(reward, edges, strict=True)],
                  [high - r for r, (_, high) in zip(reward, edges, strict=True)]]  # fmt: skip
        axis.errorbar(
            kl,
            reward,
            yerr=spread,
            fmt="o-",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.6,
            label=name,
        )
    axis.axhline(reference, color="grey", linewidth=0.8, linestyle="--", label="reference")
    axis.set_xlabel("KL(policy ‖ reference), nats a text")
    axis.set_ylabel("VADER reward, −1 to 1")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    return as_png(page)


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--betas", nargs="+", default=["0.03", "0.1", "0.3"])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--every", type=int, default=38, help="steps between two points")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_prompts", type=int, default=300)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "assets" / "reward-kl", help="without its ending"
    )
    chosen, extra = parser.parse_known_args()  # what is unknown here goes to the trainer
    quiet_libraries()
    settings = resolved(
        EvaluateTextSettings(policy=str(WORK), split=chosen.split, num_prompts=chosen.num_prompts)
    )
    compared = open_comparison(settings)
    before = write(compared, compared.reference)  # once: it is the same for every checkpoint
    runs = {f"beta {beta}": ["--beta", beta] for beta in chosen.betas} | {
        "SFT on the chosen": ["--loss_type", "sft"]
    }
    rows = []
    for name, flags in runs.items():
        rows += measure(
            name, train(name, [*flags, *extra], chosen.every, chosen.epochs), compared, before
        )
    reference = float(before.rewards[REWARD].mean())
    result = {
        "reference_reward": reference,
        "prompts": len(compared.prompts),
        "split": chosen.split,
        "rows": rows,
    }
    write_atomically(chosen.output.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    caption = (
        f"{len(compared.prompts)} held-out prefixes, {settings.samples_per_prompt} continuations"
        " each"
    )
    with atomic_file(chosen.output.with_suffix(".png")) as path:
        path.write_bytes(draw(rows, reference, caption))


if __name__ == "__main__":
    main()
