"""A small classifier of drawing style: which of the two artists of the bundled pairs drew this?"""

from __future__ import annotations

import json
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffdpo.errors import UserError


class StyleJudge(nn.Module):
    """Strided convolutions, a mean over the picture, one number; about 100,000 parameters."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        channels = (3, *widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(channels, widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Log-odds ``(N,)`` that a picture with values in [0, 1] is in the preferred style."""
        x = pixels_NCHW * 2 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x)))
        # The mean over the picture: a style is everywhere in it, and any size can be judged.
        return self.head(x.mean(dim=(2, 3))).squeeze(1)


def load_style_judge(folder: str) -> StyleJudge:
    """The judge saved in ``folder``. Raises UserError where it is missing or damaged."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
        judge = StyleJudge(tuple(config["widths"]))
        judge.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"style judge {folder}: cannot be loaded ({error})") from error
    return judge
