"""A model's processor: what it makes of pictures, and what it writes in their places."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, cached_file

from diffdpo.cache.keys import digest
from diffdpo.errors import UserError, short
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.settings import TextSettings
from diffdpo.text.vision.pictures import Pictures, stacked

TOKENS = ("input_ids", "attention_mask")
KIND = "token_type_ids"  # with what the processor puts before it
VIDEO = "video_processor"
HAS_TORCHVISION = find_spec("torchvision") is not None
# Sides of the pictures that a processor is tried on: it may make patches of 16 and merge four.
TRIED = ((96, 160), (200, 64))


@dataclass(frozen=True)
class Seen:
    """What a processor made of the pictures of a row."""

    pictures: Pictures
    places: list[str]  # the text that stands in the place of each


@dataclass(frozen=True)
class Sight:
    """A processor, used on the pictures of one row at a time. It can be pickled."""

    processor: ProcessorMixin
    least: int | None = None  # pixels of a picture; None: as the processor says
    most: int | None = None

    @property
    def mark(self) -> str:
        """What stands in a text for one picture, before it has become many tokens."""
        processor: Any = self.processor
        return str(processor.image_token)

    @property
    def video_mark(self) -> str | None:
        """What stands in a text for a video, where the model knows videos."""
        return getattr(self.processor, "video_token", None)

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """The tokens that stand in the place of a picture."""
        return tuple(int(token) for token in self.processor.image_token_ids if token is not None)

    @cached_property
    def identity(self) -> str:
        """A digest of all that decides what pictures become."""
        facts = [self.processor.image_processor.to_dict(), type(self.processor).__qualname__]
        facts += [transformers.__version__, HAS_TORCHVISION, self.least, self.most]
        return digest(json.dumps(facts, sort_keys=True, default=str))

    def made(self, rows: Sequence[Sequence[Image.Image]]) -> Any:
        """What the processor makes of the pictures of some rows together."""
        return self.processor(
            images=[[sized(one, self.least, self.most) for one in images] for images in rows],
            text=[self.mark * len(images) for images in rows],
            add_special_tokens=False,
            padding=True,
            return_text_replacement_offsets=True,
            return_tensors="pt",
        )

    def see(self, images: Sequence[Image.Image]) -> Seen:
        """What the pictures of a row become; there is at least one."""
        made = self.made([images])
        (offsets,) = made["text_replacement_offsets"]
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        tokens = tensors["input_ids"]
        # One number a token: which of them belong to a picture.
        kinds = [name for name in tensors if name.endswith(KIND)]
        given = {name: v for name, v in tensors.items() if name not in (*TOKENS, *kinds)}
        pictures = Pictures((given,), self.marks, tuple(kinds))
        for name, value in pictures.inputs([0], tokens).items():
            if name in kinds and not torch.equal(value, tensors[name].to(value)):
                raise ValueError(f"its {name} tell more than which tokens are a picture's")
        return Seen(pictures, [one["replacement"] for one in offsets])

    def exported(self, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
        """The processor as it belongs to a result, with the template that was trained with."""
        self.processor.tokenizer.chat_template = tokenizer.chat_template
        self.processor.chat_template = tokenizer.chat_template
        return self.processor

    def with_template(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer; with the processor's template where it has none."""
        if tokenizer.chat_template or not self.processor.chat_template:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = self.processor.chat_template
        return tokenizer

    def expanded(self, text: str, places: Sequence[str]) -> str:
        """A text with what stands in the place of each picture put there."""
        first, *rest = text.split(self.mark)
        return "".join([first, *(a + b for a, b in zip(places, rest, strict=True))])


def load_sight(
    names: Sequence[str], network: PreTrainedModel, settings: TextSettings | EvaluateTextSettings
) -> Sight:
    """The processor in the first of the places ``names`` that has one.

    Raises UserError where none has, or where it is not understood.
    """
    place = f"--model_name_or_path {names[0]}"
    for name in names:
        try:
            processor = load_processor(name, network, settings.hub_options)
        except Exception as error:  # of every kind: its files may hold anything
            reason = short(error, 200) or type(error).__name__
        else:
            sight = Sight(processor, settings.image_min_pixels, settings.image_max_pixels)
            return proved(sight, place)
    raise UserError(f"{place}: its processor of pictures cannot be loaded ({reason})")


def load_processor(name: str, network: PreTrainedModel, options: dict[str, Any]) -> ProcessorMixin:
    """The processor of a folder or hub id."""
    kind: Any = PROCESSOR_MAPPING.get(type(network.config), None)
    if not HAS_TORCHVISION and kind and VIDEO in kind.get_attributes():
        still = without_video(kind).from_pretrained(name, **options)
        # Kept as they are, so that a result's processor is whole where there is torchvision.
        still.video_processor = video_settings(name, options)
        return still
    found = AutoProcessor.from_pretrained(name, **options)
    if not isinstance(found, ProcessorMixin):
        raise ValueError("there is a tokenizer, and no processor")
    return found


def without_video(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The same class of processors without the part for videos, which is not used here and which
    needs torchvision."""

    class Still(kind):  # type: ignore[valid-type, misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != VIDEO]

        def __reduce__(self) -> Any:  # a class that is made here has no place to be found at
            return made_again, (kind, self.__dict__)

    Still.__name__ = Still.__qualname__ = kind.__name__  # it is saved under this name
    return Still


def made_again(kind: type[ProcessorMixin], state: dict[str, Any]) -> ProcessorMixin:
    """A processor of ``without_video`` that was sent to another process."""
    still = without_video(kind)
    processor = still.__new__(still)
    processor.__dict__.update(state)
    return processor


def video_settings(name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """What the files of a processor say of videos: in the file of all parts, or in one of its
    own."""
    where = {key: options[key] for key in ("revision", "cache_dir")}
    for file, part in ((PROCESSOR_NAME, VIDEO), (VIDEO_PROCESSOR_NAME, None)):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **where)
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        if found := found.get(part) if part else found:
            return dict(found)
    return None


def proved(sight: Sight, place: str) -> Sight:
    """The same processor. Raises UserError where pictures of two rows cannot be put together, or
    where it does not work as those of the library do."""
    # Tried rather than told by a list of families, which would never be whole.
    pictures = [made_up(*size) for size in TRIED]
    try:
        if not getattr(sight.processor, "image_token", None):
            raise ValueError("it has no image_token")
        apart = [sight.see([picture]).pictures.of_item[0] for picture in pictures]
        both = sight.made([[picture] for picture in pictures])
        for name in apart[0]:
            if not torch.equal(stacked([one[name] for one in apart]), both[name]):
                raise ValueError(f"the {name} of a row depend on the pictures of others")
    except Exception as error:  # of every kind: whatever a processor does
        reason = short(error, 160) or type(error).__name__
        raise UserError(
            f"{place}: pictures cannot be read by its {type(sight.processor).__name__} ({reason});"
            " leave the pictures out, or take a model such as Qwen2.5-VL, Qwen3-VL or LLaVA"
        ) from error
    return sight


def sized(image: Image.Image, least: int | None, most: int | None) -> Image.Image:
    """The picture with at most, and at least, so many pixels, as LLaMA-Factory scales it."""
    pixels = image.width * image.height
    for bound, beyond in ((most, most and pixels > most), (least, least and pixels < least)):
        if bound and beyond:
            scale = math.sqrt(bound / pixels)
            width, height = (max(1, int(side * scale)) for side in image.size)
            return image.resize((width, height))
    return image


def made_up(width: int, height: int) -> Image.Image:
    """A picture of a size, with no two rows or columns alike."""
    row, column = np.mgrid[:height, :width]
    colours = np.stack([row * 5 % 251, column * 7 % 241, (row + column) * 3 % 239], axis=2)
    return Image.fromarray(colours.astype(np.uint8))
