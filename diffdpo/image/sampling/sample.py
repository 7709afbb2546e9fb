"""Samples pictures at fixed prompts and seeds, so that two networks can be compared."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from diffdpo.draws import Purpose, generator
from diffdpo.engine.failures import machine_memory
from diffdpo.engine.files import atomic_file
from diffdpo.errors import UserError
from diffdpo.image.process.start_noise import start_generator
from diffdpo.image.sampling.lettering import SIZE, lettered

if TYPE_CHECKING:  # what only shows pictures loads no models
    from diffdpo.image.backbones.base import Backbone


@dataclass(frozen=True)
class PictureSettings:
    """Settings of sampling."""

    steps: int = 25
    guidance: float = 5.0
    batch: int = 8
    resolution: int | None = None

    @classmethod
    def of(cls, settings: Any) -> PictureSettings:
        """Those among the settings of a command."""
        return cls(
            settings.num_inference_steps,
            settings.guidance_scale,
            settings.sample_batch_size,
            settings.resolution,
        )


def usual_guidance(backbone: Backbone) -> float:
    """The guidance scale of the pipeline's call where none is given: as the model is used."""
    name = next(iter(backbone.sampling_options(1.0)))
    return float(inspect.signature(type(backbone.pipeline).__call__).parameters[name].default)


def check_steps(backbone: Backbone, settings: PictureSettings) -> None:
    """Raise UserError where the scheduler has no such number of steps."""
    most = backbone.pipeline.scheduler.config.num_train_timesteps
    if settings.steps > most:
        raise UserError(
            f"--num_inference_steps {settings.steps}: the model's scheduler has {most} timesteps"
        )


def check_sampling(backbone: Backbone, pictures: int, settings: PictureSettings) -> None:
    """The same, and where so many pictures do not fit into this machine's memory, which holds all
    of them."""
    check_steps(backbone, settings)
    side = settings.resolution or backbone.native_resolution
    needed, there = 3 * side**2 * pictures, machine_memory()
    if needed > there:
        raise UserError(
            f"{pictures:,} pictures of {side} pixels need {needed / 2**30:,.0f} GiB of memory, this"
            f" machine has {there / 2**30:.0f}, and {settings.steps * pictures:,} sampling steps;"
            " take fewer prompts or pictures of each"
        )


def sample(
    backbone: Backbone,
    network: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: PictureSettings,
    label: str | None = None,
) -> list[Image.Image]:
    """One picture for each prompt, with the backbone's own scheduler.

    The starting noise of a picture depends on its seed alone. ``label`` shows a progress bar.
    """
    pictures: list[Image.Image] = []
    size = at_once(backbone, settings)
    starts = range(0, len(prompts), size)
    with sampling(backbone, network):
        for start in tqdm(starts, desc=label, unit="batch", disable=label is None):
            batch = slice(start, start + size)
            pictures += run(backbone, prompts[batch], seeds[batch], settings)
    return pictures


def at_once(backbone: Backbone, settings: PictureSettings) -> int:
    """How many pictures a batch has."""
    return min(settings.batch, backbone.prompts_at_once or settings.batch)


@contextmanager
def sampling(backbone: Backbone, network: Any) -> Iterator[None]:
    """Inside, the pipeline samples with this network, without gradients."""
    was_training = network.training
    network.eval()
    half = mixed_with(backbone, network)
    with (
        torch.no_grad(),
        torch.autocast(network.device.type, half, enabled=half is not None),
        swapped(backbone, network),
    ):
        yield
    network.train(was_training)


@contextmanager
def swapped(backbone: Backbone, network: Any) -> Iterator[None]:
    """Inside, the pipeline's network is this one."""
    # In the pipeline as it was loaded: one made anew of its components forgets its settings.
    pipeline, own = backbone.pipeline, backbone.network
    pipeline.set_progress_bar_config(disable=True)
    setattr(pipeline, backbone.part, network)
    try:
        yield
    finally:
        setattr(pipeline, backbone.part, own)


def run(
    backbone: Backbone, prompts: Sequence[str], seeds: Sequence[int], settings: PictureSettings
) -> list[Image.Image]:
    """The pictures of one batch."""
    generators = [start_generator(seed) for seed in seeds]
    output = backbone.pipeline(
        prompt=list(prompts),
        num_inference_steps=settings.steps,
        **backbone.sampling_options(settings.guidance, len(prompts)),
        **backbone.text_options,
        generator=generators,
        height=settings.resolution,
        width=settings.resolution,
        output_type="pil",  # of pictures the default, of clips not
    )
    return backbone.pictures(output)


def mixed_with(backbone: Backbone, network: Any) -> torch.dtype | None:
    """The half precision of some components, where others are float32; None where all agree."""
    # Frozen encoders may be in half precision beside a network trained in float32: only under
    # autocast can the output of one be the input of the other.
    modules = [network, backbone.vae, *backbone.text_encoders()]
    dtypes = {weight.dtype for module in modules for weight in module.parameters()}
    halves = dtypes & {torch.float16, torch.bfloat16}  # what weights are stored in besides is none
    return next(iter(halves), None) if len(dtypes) > 1 else None


def seeds_for(seed: int, count: int) -> list[int]:
    """``count`` sampling seeds, a function of the run's seed."""
    return [int(s) for s in generator(seed, Purpose.SAMPLE).integers(0, 2**31, size=count)]


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = 128
) -> Image.Image:
    """A captioned grid: a row for each prompt, a column for each network or seed.

    Each picture is ``cell`` pixels wide.
    """
    font = ImageFont.load_default(SIZE)
    left, top = 190, 24
    canvas = Image.new("RGB", (left + cell * len(columns), top + cell * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for index, name in enumerate(columns):
        pen.text((left + cell * index + 6, 4), name, fill="black", font=font)
    for row, (caption, pictures) in enumerate(rows):
        text, letters = lettered(caption, row)
        pen.text((8, top + cell * row + cell // 2 - 8), text, fill="black", font=letters)
        for index, picture in enumerate(pictures):
            enlarge = Image.Resampling.NEAREST if picture.width < cell else Image.Resampling.LANCZOS
            spot = (left + cell * index, top + cell * row)
            canvas.paste(picture.resize((cell - 4, cell - 4), enlarge), spot)
    return canvas


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG file, and its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        picture.save(draft, format="PNG")


def as_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
