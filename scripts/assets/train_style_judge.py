"""Trains the style judge on captions that the preference pairs do not use.

    python scripts/assets/train_style_judge.py

Half of what it sees has been through the bundled autoencoder, so that it judges the drawing and not
the decoder's blur. Tested on captions that neither it nor the autoencoder has seen, and on the
pictures of the test pairs; both accuracies go into its config.json.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from common import (
    ASSETS,
    PIPELINE,
    PREFERRED,
    WORK,
    cosine_rate,
    load_emoji,
    parser_of,
    quiet_start,
)
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from diffdpo.metrics.style import StyleJudge

TARGET = ASSETS / "style-judge"
WIDTHS = (24, 48, 64, 64)


def round_trip(autoencoder: Any, pixels_NCHW: Tensor) -> Tensor:
    """The pictures after the autoencoder has encoded and decoded them; values in [0, 1]."""
    with torch.no_grad():
        chunks = [
            autoencoder.decode(autoencoder.encode(chunk * 2 - 1).latent_dist.mean).sample
            for chunk in pixels_NCHW.split(64)
        ]
    return (torch.cat(chunks) / 2 + 0.5).clamp(0, 1)


def disturbed(pixels_NCHW: Tensor) -> Tensor:
    """The pictures mirrored, shifted, a little brighter or darker, sometimes blurred, a little
    noisy. The style survives all this, so the judge must not depend on it."""
    count = len(pixels_NCHW)
    pixels = torch.where(torch.rand(count, 1, 1, 1) < 0.5, pixels_NCHW, pixels_NCHW.flip(-1))
    down, right = torch.randint(-3, 4, (2,)).tolist()
    pixels = torch.roll(pixels, (down, right), (2, 3))
    pixels = torch.where(
        torch.rand(count, 1, 1, 1) < 0.3,
        F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False),
        pixels,
    )
    pixels = pixels + 0.05 * torch.randn(count, 3, 1, 1) * (pixels < 0.99)  # white stays white
    return (pixels + 0.03 * torch.rand(count, 1, 1, 1) * torch.randn_like(pixels)).clamp(0, 1)


def data(split: str, autoencoder: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Real pictures, their round trips, and labels: 1 for the preferred artist."""
    emoji = load_emoji(WORK / "emoji")
    rows = emoji.rows([split])
    if split == "test":  # only those that are in the pairs
        captions = set(pd.read_parquet(ASSETS / "emoji-pairs" / "test-00000.parquet").caption)
        rows = [row for row in rows if emoji.captions[row] in captions]
    pixels = emoji.tensor(rows).float() / 255
    labels = torch.cat([torch.ones(pixels.shape[1]), torch.zeros(pixels.shape[1])])
    real = pixels.flatten(0, 1)
    return real, round_trip(autoencoder, real), labels


def accuracy(judge: StyleJudge, pixels_NCHW: Tensor, labels_N: Tensor) -> float:
    """The share of pictures that are judged right: a positive score for the preferred artist."""
    with torch.no_grad():
        return ((judge(pixels_NCHW) > 0) == (labels_N > 0.5)).float().mean().item()


def train(real: Tensor, decoded: Tensor, labels: Tensor, steps: int) -> StyleJudge:
    """Train a judge on equal parts of real and decoded pictures."""
    judge = StyleJudge(WIDTHS)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    for step in tqdm(range(steps), desc="style judge", unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine_rate(step / steps, step, 50)
        index = torch.randint(len(real), (64,))
        source = torch.where(torch.rand(64, 1, 1, 1) < 0.5, real[index], decoded[index])
        loss = F.binary_cross_entropy_with_logits(judge(disturbed(source)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


def main() -> None:
    """Train, test, save."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--autoencoder", default=str(PIPELINE / "vae"))
    settings = parser.parse_args()
    quiet_start()
    autoencoder = AutoencoderKL.from_pretrained(settings.autoencoder).float().eval()
    judge = train(*data("spare", autoencoder), settings.steps)
    facts: dict[str, object] = {"widths": list(WIDTHS), "preferred": PREFERRED}
    for name, split in (("held_out", "held_out"), ("test_pairs", "test")):
        real, decoded, labels = data(split, autoencoder)
        facts |= {f"{name}_accuracy": accuracy(judge, real, labels), f"{name}_pictures": len(real)}
        facts[f"{name}_accuracy_decoded"] = accuracy(judge, decoded, labels)
    TARGET.mkdir(parents=True, exist_ok=True)
    save_file(judge.state_dict(), TARGET / "model.safetensors")
    (TARGET / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts)


if __name__ == "__main__":
    main()
