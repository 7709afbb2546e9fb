"""The style judge of the bundled pairs as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffdpo.data.bundled import bundled
from diffdpo.engine.digests import file_digest
from diffdpo.metrics.pixels import as_rgb
from diffdpo.metrics.reward import Reward

JUDGE_SIDE = 64  # pixels: the size of the pictures that the judge was trained on


def bundled_style_reward(path: str | None = None) -> Reward:
    """A reward: log-odds of the preferred artist's style, by the judge in assets/style-judge, or
    by another of its kind at ``path``."""
    import torch  # not above: the table of rewards is read to check a flag

    from diffdpo.metrics.style import load_style_judge

    folder = Path(path or bundled("assets/style-judge"))
    judge = load_style_judge(str(folder)).eval()

    def style(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        small = [as_rgb(picture).resize((JUDGE_SIDE, JUDGE_SIDE)) for picture in pictures]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).permute(
            0, 3, 1, 2
        )
        with torch.no_grad():
            # Log-odds, not a probability: that would round to 1 for all good pictures and tie them.
            weight = next(judge.parameters())
            pixels = pixels.to(weight.device, weight.dtype) / 255
            return judge(pixels).flatten().double().cpu().numpy()

    weights = file_digest(folder / "model.safetensors")[:16]
    identity = {"weights": weights, "pictures": f"{JUDGE_SIDE} px Pillow", "scale": "log-odds"}
    return Reward("style", style, identity, judge, reads_prompts=False)
