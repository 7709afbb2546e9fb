"""Shared by the scripts that build assets/: the picture set, its split by caption, picture sheets
and what training from scratch needs.

Not run by itself. The picture set is made by ``build_emoji.py``.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
LOWEST_RATE = 0.02  # of the learning rate, at the end of a training
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


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The parser of a script, whose help is what stands at its head."""
    shown = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=shown)


def cosine_rate(progress: float, step: int, warmup: int) -> float:
    """A factor for the learning rate: linear warm-up in steps, then a cosine over ``progress``, the
    share of the time that is used."""
    # In time, not in steps: the scripts train for so many minutes, whatever the machine.
    decay = LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / warmup) * decay


def as_pixels(values_NCHW: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [−1, 1]."""
    return values_NCHW.float() / 127.5 - 1


def trained_pictures() -> tuple[list[str], torch.Tensor]:
    """What a text-to-image pipeline is trained on, the captions of the pairs and the prompts by
    both artists: one caption per picture and the pictures, (pictures, RGB, H, W), uint8."""
    emoji = load_emoji(WORK / "emoji")
    paths = [ASSETS / "emoji-pairs" / f"{split}-00000.parquet" for split in PAIR_SPLITS]
    trained = set(read_prompts()).union(*(pd.read_parquet(path).caption for path in paths))
    rows = [row for row, caption in enumerate(emoji.captions) if caption in trained]
    print(f"{len(rows)} captions by two artists")
    return [emoji.captions[row] for row in rows] * len(ARTISTS), emoji.tensor(rows).flatten(0, 1)


@torch.no_grad()
def cached_latents(vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and deviation of every picture."""
    # Encoded once: the autoencoder stays as it is, and latents are drawn anew from these each step.
    posteriors = [vae.encode(as_pixels(chunk)).latent_dist for chunk in pixels.split(64)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def batches(count: int, size: int) -> Iterator[torch.Tensor]:
    """Row numbers for batches without end; every row comes once before any comes again, up to the
    few that are left over."""
    order = torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < size:
            order = torch.randperm(count)
        yield order[:size]
        order = order[size:]


def stratified(count: int) -> torch.Tensor:
    """One uniform number from each of ``count`` equal parts of [0, 1), shuffled."""
    # Every batch covers the whole range of noise, which takes noise out of the loss.
    return ((torch.arange(count) + torch.rand(count)) / count)[torch.randperm(count)]


def quiet_start(threads: int = 2) -> None:
    """Set seed, threads and rounding of tiny numbers, so that every start is the same."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # such numbers slow the end of training down


def clock(minutes: float, name: str, used: float = 0.0) -> Iterator[tuple[int, float, Any]]:
    """Steps until the time is up: (step, share of the time used, progress bar in seconds); a share
    ``used`` of it is over at the start."""
    start = time.monotonic() - 60 * minutes * used
    layout = "{desc} {percentage:3.0f}% |{bar}| {remaining} left{postfix}"
    with tqdm(total=100, desc=name, bar_format=layout, mininterval=5) as bar:
        for step in itertools.count():
            progress = (time.monotonic() - start) / 60 / minutes
            if progress >= 1:
                return
            bar.update(100 * progress - bar.n)
            yield step, progress, bar


@torch.no_grad()
def show(pipeline: Any, mean: Ema, target: Path, tag: str, **call: Any) -> None:
    """Write a sheet of the 24 prompts and the pipeline in float16, both with the running mean of
    the weights; ``call`` are further arguments of the pipeline's call."""
    mean.swap()
    seeds = [torch.Generator().manual_seed(i) for i in range(len(read_prompts()))]
    options = {
        "num_inference_steps": 20,
        "guidance_scale": 4.0,
        "output_type": "np",
        "generator": seeds,
    }
    pictures = pipeline(list(read_prompts()), **options, **call).images
    sheet((pictures * 255).round().astype(np.uint8), 8, WORK / f"{target.name}-{tag}.png", 2)
    save_in_half(pipeline, target)
    mean.swap()


def save_in_half(pipeline: Any, target: Path) -> None:
    """Write a pipeline's folder with weights in float16, beside the README that is there."""
    draft = target.with_name(target.name + ".tmp")
    networks = {k: v for k, v in pipeline.components.items() if isinstance(v, nn.Module)}
    saved = copy.copy(pipeline)
    saved.register_modules(**{name: copy.deepcopy(v).half() for name, v in networks.items()})
    saved.save_pretrained(draft)
    # Half precision is for the file alone; by its own config a text encoder would load in it
    # beside a float32 network.
    for config in draft.glob("text_encoder*/config.json"):
        entries = json.loads(config.read_text()) | {"dtype": "float32"}
        config.write_text(json.dumps(entries, indent=2) + "\n")
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", draft)
    replace_folder(draft, target)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; a reader never meets half a folder."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
