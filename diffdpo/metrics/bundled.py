"""The style judge of the bundled pairs as a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from diffdpo.data.bundled import bundled

JUDGE_SIDE = 64  # pixels: the size of the pictures that the judge was trained on


def bundled_style_reward() -> Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]:
    """A reward: log-odds of the preferred artist's style, by the judge in assets/style-judge."""
    import torch  # not above: the table of rewards is read to check a flag

    from diffdpo.metrics.style import load_style_judge

    judge = load_style_judge(bundled("assets/style-judge")).eval()

    def style(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        small = [picture.convert("RGB").resize((JUDGE_SIDE, JUDGE_SIDE)) for picture in pictures]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).permute(
            0, 3, 1, 2
        )
        with torch.no_grad():
            # Log-odds, not a probability: that would round to 1 for all good pictures and tie them.
            return judge(pixels.float() / 255).flatten().double().numpy()

    return style
