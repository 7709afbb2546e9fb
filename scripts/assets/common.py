"""Shared by the scripts that build assets/: the picture set, its split by caption, picture sheets
and what training from scratch needs.

Not run by itself. The picture set is made by ``build_emoji.py``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "runs" / "assets"
ASSETS = ROOT / "assets"
PIPELINE = ASSETS / "emoji-pipeline"
PROMPTS = Path(__file__).with_name("prompts.txt")

SIZE = 64
PREFERRED, OTHER = "fluent-3d", "noto"
ARTISTS = (PREFERRED, OTHER)

# A caption's split is a pure function of its text, so it never moves when the set grows. "spare"
# captions are seen by the autoencoder and the judge; "held_out" ones by nothing that is trained.
PAIR_SPLITS = ("train", "validation", "test")
SPARE_SHARE, VALIDATION_SHARE, TEST_SHARE, HELD_OUT_SHARE = 0.25, 0.12, 0.22, 0.30
# Left to "spare": lettering and signs rather than pictures, the many people that differ in small
# details only, and what has no place in a demonstration.
LEFT_OUT = frozenset(
    """
    button o’clock thirty arrow person people square sign men women men’s women’s symbol
    oncoming no circled mark information registered copyright trade prohibited customs passport
    baggage luggage closet restroom wireless mode antenna plus minus divide multiply infinity om
    khanda hamsa keycap input joker x-ray dvd currency banknote cigarette coffin funeral
    headstone dagger bomb middle bikini briefs pregnant breast feeding kiss kissing biting love
    syringe pill vomiting gun pistol razor sake wedding hole level left hundred
    """.split()
)


@dataclass(frozen=True)
class Emoji:
    """Every caption drawn by every artist: ``pixels`` is (artist, caption, H, W, RGB), uint8."""

    captions: list[str]
    pixels: np.ndarray

    def rows(self, splits: Iterable[str]) -> list[int]:
        """The numbers of the captions that belong to these splits."""
        names = set(splits)
        return [i for i, caption in enumerate(self.captions) if split_of(caption) in names]

    def tensor(self, rows: list[int]) -> torch.Tensor:
        """The pictures of some captions: (artist, caption, RGB, H, W), uint8."""
        return torch.from_numpy(self.pixels[:, rows]).permute(0, 1, 4, 2, 3).contiguous()


def load_emoji(folder: Path) -> Emoji:
    """The picture set that ``build_emoji.py`` wrote into a folder."""
    with np.load(folder / "emoji.npz") as stored:
        return Emoji([str(caption) for caption in stored["captions"]], stored["pixels"])


@cache
def read_prompts() -> tuple[str, ...]:
    """The captions to judge by eye, chosen before any sample was seen; always trained on."""
    return tuple(PROMPTS.read_text().split("\n")[:-1])


def fraction(text: str, purpose: str) -> float:
    """A number in [0, 1) that is a function of the text and of what it is for."""
    return int(hashlib.sha256(f"{purpose}:{text}".encode()).hexdigest()[:12], 16) / 16**12


def split_of(caption: str) -> str:
    """The split of a caption: train, validation or test for the network's, spare or held_out for
    all others."""
    if caption in read_prompts():
        return "train"
    words = caption.replace("-", " ").split()
    drawn = len(words) <= 2 and caption[0].islower() and not LEFT_OUT & {caption, *words}
    if not drawn or fraction(caption, "network") < SPARE_SHARE:
        return "held_out" if fraction(caption, "spare") < HELD_OUT_SHARE else "spare"
    position = fraction(caption, "split")
    if position < VALIDATION_SHARE:
        return "validation"
    return "test" if position < VALIDATION_SHARE + TEST_SHARE else "train"


def sheet(pictures_NHWC: np.ndarray, columns: int, path: Path, zoom: int = 1) -> None:
    """Pictures side by side in one PNG."""
    count, height, width, _ = pictures_NHWC.shape
    canvas = np.full((math.ceil(count / columns) * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures_NHWC):
        y, x = (i // columns) * height, (i % columns) * width
        canvas[y : y + height, x : x + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(canvas)
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)


class Ema:
    """A running mean of the weights."""

    def __init__(self, modules: list[nn.Module], decay: float) -> None:
        self.modules, self.decay = modules, decay
        self.shadow = [p.detach().clone() for m in modules for p in m.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights as they are after ``step``."""
        # The decay warms up, or the weights of the start would be in the mean for ever.
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.detach() for m in self.modules for p in m.parameters()]
        torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and means; a second call puts them back."""
        for weight, mean in zip(
            (p for m in self.modules for p in m.parameters()), self.shadow, strict=True
        ):
            kept = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(kept)


def cosine_rate(progress: float, step: int, warmup: int, floor: float = 0.02) -> float:
    """A factor for the learning rate: linear warm-up in steps, then a cosine over ``progress``, the
    share of the time that is used."""
    # In time, not in steps: the scripts train for so many minutes, whatever the machine.
    decay = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / warmup) * decay


def as_pixels(values_NCHW: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [−1, 1]."""
    return values_NCHW.float() / 127.5 - 1


def quiet_start() -> None:
    """Set seed, threads and rounding of tiny numbers, so that every start is the same."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)  # such numbers slow the end of training down


def clock(minutes: float, name: str) -> Iterator[tuple[int, float, Any]]:
    """Steps until the time is up: (step, share of the time used, progress bar in seconds)."""
    start = time.monotonic()
    layout = "{desc} {percentage:3.0f}% |{bar}| {remaining} left{postfix}"
    with tqdm(total=100, desc=name, bar_format=layout, mininterval=5) as bar:
        for step in itertools.count():
            progress = (time.monotonic() - start) / 60 / minutes
            if progress >= 1:
                return
            bar.update(100 * progress - bar.n)
            yield step, progress, bar


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; a reader never meets half a folder."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
