"""Plots reward against distance from the reference for several betas: the controlled experiment of
Rafailov et al. 2023 in small.

    python scripts/reward_frontier.py
    python scripts/reward_frontier.py --images

For every beta, and for supervised training on the chosen items, one run on the bundled pairs; every
checkpoint of it is judged on the same held-out prompts (their section 6.1; figure 2, left). Texts:
reward against KL, in ``assets/reward-kl.png`` and ``.json``. Pictures: win rate by the style judge
against the rise of the error on held-out chosen pictures, in ``assets/reward-error.png`` and
``.json``; the runs share stored encodings and reference scores, which depend on no beta.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffdpo.cli import run_command
from diffdpo.commands.evaluate_text import load_scorer, open_comparison, resolved
from diffdpo.engine.checkpoint import list_checkpoints, read_tensors
from diffdpo.engine.console import quiet_libraries
from diffdpo.engine.files import atomic_file, write_atomically
from diffdpo.engine.labels import REFERENCE
from diffdpo.evaluation.texts import scores_of_texts, text_rows
from diffdpo.report.plots import as_png, figure
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.sampling.comparison import Comparison, Written, compare, write
from diffdpo.text.scoring.scorer import TokenScorer

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "frontier"
REWARD = "sentiment"
FIGURES = ("policy_reward", "difference", "kl", "win_rate", "implicit_accuracy", "policy_tokens")
Row = dict[str, Any]


class Axes(NamedTuple):
    """What is plotted against what, by the names of the figures in a row, and how it is called."""

    x: str
    y: str
    x_label: str
    y_label: str


TEXTS = Axes("kl", "policy_reward", "KL(policy ‖ reference), nats a text", "VADER reward, −1 to 1")
IMAGES = Axes(
    "winners_error",
    "win_rate",
    "rise of the squared error on held-out chosen pictures",
    "win rate by the style judge",
)


def train(script: str, name: str, flags: list[Any], every: int) -> Path:
    """One run of a bundled recipe with a checkpoint every so many steps; returns its folder."""
    folder = WORK / script.removesuffix(".py") / name.replace(" ", "-")
    # Checkpoints of an earlier run would be measured along with this one's.
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        "--output_dir",
        folder,
        "--checkpointing_steps",
        every,
        "--report_to",
        "none",
    ]
    command = [sys.executable, ROOT / "scripts" / script, *words, *flags]
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
        scores = scores_of_texts(compared, {REFERENCE: before, "policy": after})
        figures |= text_rows(scores, "policy")[REWARD]
        step = int(path.name.split("-")[1])
        rows.append({"run": name, "step": step, **{key: figures[key].as_dict() for key in FIGURES}})
        rounded = {key: round(figures[key].value, 3) for key in FIGURES}
        print(f"{name}, step {step}: {rounded}", flush=True)
    return rows


def draw(rows: list[Row], reference: float, title: str, what: Axes = TEXTS) -> bytes:
    """The plot as PNG: a line per run, a point per checkpoint, 95 % intervals upwards."""
    page, axes = figure(1, 1, 7.5, 4.6)
    axis = axes[0, 0]
    for name in dict.fromkeys(row["run"] for row in rows):
        line = [row for row in rows if row["run"] == name]
        x, y = ([row[key]["value"] for row in line] for key in (what.x, what.y))
        edges = [row[what.y]["interval"] for row in line]
        spread = [[max(0.0, r - low) for r, (low, _) in zip(y, edges, strict=True)],
                  [max(0.0, high - r) for r, (_, high) in zip(y, edges, strict=True)]]  # fmt: skip
        look = {"markersize": 4, "linewidth": 1.2, "elinewidth": 0.6}
        axis.errorbar(x, y, yerr=spread, fmt="o-", label=name, **look)
    axis.axhline(reference, color="grey", linewidth=0.8, linestyle="--", label="reference")
    axis.set_xlabel(what.x_label)
    axis.set_ylabel(what.y_label)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, loc="lower right")  # rewards rise
    return as_png(page)


def of_images(chosen: argparse.Namespace, extra: list[str]) -> tuple[list[Row], float, int, str]:
    """The rows of image runs, the reference's win rate against itself, the number of prompts and
    the caption."""
    script = "train_diffusion_dpo.py"
    # Fixed draws, whose scores by the reference are computed once for all betas.
    stored = ["--cache_latents", "--reference_draws", "8", "--precompute_dir", WORK / "stored"]
    runs: dict[str, list[Any]]
    runs = {f"beta {beta}": ["--beta_dpo", beta, *stored] for beta in chosen.betas}
    runs["SFT on the chosen"] = ["--sft"]
    places: dict[str, str] = {}
    for name, flags in runs.items():
        flags = [*flags, "--max_train_steps", chosen.steps, *extra]
        folder = train(script, name, flags, chosen.every)
        places |= {str(path): name for path in list_checkpoints(folder)}
    out = WORK / "judged"
    shutil.rmtree(out, ignore_errors=True)
    words = ["--policy", *places, "--split", chosen.split, "--reward", "style"]
    words += ["--num_prompts", chosen.num_prompts, "--output_dir", out]
    words += ["--implicit_draws", chosen.draws]
    if code := run_command("evaluate", list(map(str, words))):
        sys.exit(code)
    found = json.loads((out / "evaluation.json").read_text())
    rows = []
    for policy in found["policies"].values():
        path = Path(policy["run"])
        rows.append({
            "run": places[str(path)],
            "step": int(path.name.split("-")[1]),
            "win_rate": policy["rewards"]["style"]["win_rate"],
            "implicit_accuracy": policy["implicit_accuracy"],
            "winners_error": policy["implicit_accuracy"]["winners_error"]["difference"],
        })  # fmt: skip
    count = rows[0]["win_rate"]["clusters"]
    return rows, 0.5, count, f"{count} held-out captions"


def of_texts(chosen: argparse.Namespace, extra: list[str]) -> tuple[list[Row], float, int, str]:
    """The rows of text runs, the reference's reward, the number of prompts and the caption."""
    settings = resolved(
        EvaluateTextSettings(policy=[str(WORK)], split=chosen.split, num_prompts=chosen.num_prompts)
    )
    compared = open_comparison(settings)
    before = write(compared, compared.reference)  # once: it is the same for every checkpoint
    runs = {f"beta {beta}": ["--beta", beta] for beta in chosen.betas} | {
        "SFT on the chosen": ["--loss_type", "sft"]
    }
    rows = []
    for name, flags in runs.items():
        flags = [*flags, "--num_train_epochs", chosen.epochs, *extra]
        folder = train("train_text_dpo.py", name, flags, chosen.every)
        rows += measure(name, folder, compared, before)
    caption = (
        f"{len(compared.prompts)} held-out prefixes, {settings.samples_per_prompt} continuations"
        " each"
    )
    return rows, float(before.rewards[REWARD].mean()), len(compared.prompts), caption


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", action="store_true", help="of pictures instead of texts")
    parser.add_argument("--betas", nargs="+", help="default: 0.03 0.1 0.3; images 250 1000 4000")
    parser.add_argument("--epochs", type=float, default=3, help="of text runs")
    parser.add_argument("--steps", type=int, default=80, help="of image runs")
    parser.add_argument("--draws", type=int, default=4, help="of each held-out pair of pictures")
    parser.add_argument(
        "--every", type=int, help="steps between two points; default: 38; images 40"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_prompts", type=int, help="default: 300; images 60")
    parser.add_argument("--output", type=Path, help="without its ending")
    chosen, extra = parser.parse_known_args()  # what is unknown here goes to the trainer
    quiet_libraries()
    texts = {"betas": ["0.03", "0.1", "0.3"], "every": 38, "num_prompts": 300}
    images = {"betas": ["250", "1000", "4000"], "every": 40, "num_prompts": 60}
    name = "reward-error" if chosen.images else "reward-kl"
    defaults = {**(images if chosen.images else texts), "output": ROOT / "assets" / name}
    for key, value in defaults.items():
        if getattr(chosen, key) is None:
            setattr(chosen, key, value)
    work, axes = (of_images, IMAGES) if chosen.images else (of_texts, TEXTS)
    rows, reference, prompts, caption = work(chosen, extra)
    key = "reference_win_rate" if chosen.images else "reference_reward"
    result = {key: reference, "prompts": prompts, "split": chosen.split, "rows": rows}
    write_atomically(chosen.output.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    with atomic_file(chosen.output.with_suffix(".png")) as path:
        path.write_bytes(draw(rows, reference, caption, axes))


if __name__ == "__main__":
    main()
