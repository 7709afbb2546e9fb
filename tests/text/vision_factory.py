"""Tiny image–text models with their processors, and rows with pictures; nothing is downloaded."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from diffdpo.text.vision.sight import without_video
from tests.text import factory

VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>"]
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava")
TILES = [[28, 56], [56, 28], [56, 56]]  # LLaVA-NeXT cuts a picture into so many pixels' tiles
# As the templates of Qwen2.5-VL and of LLaVA write pictures, without their system texts.
PART = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}PLACE{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = PART.replace("PLACE", "<|vision_start|><|image_pad|><|vision_end|>")
LLAVA = PART.replace("PLACE", "<image>\n")
WORDS = len(factory.MARKS) + 256 + len(factory.MERGES) + len(VISION)
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def tokenizer(template: str):
    made = factory.tokenizer(template)
    made.add_tokens(VISION, special_tokens=True)
    return made


def processor(family: str):
    """The processor of a family, from its classes' defaults but for the size of pictures."""
    words = tokenizer(LLAVA if family.startswith("llava") else QWEN)
    if family.startswith("llava"):
        size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
        images, kind = CLIPImageProcessorPil(**size), LlavaProcessor
        if family == "llava_next":
            images = LlavaNextImageProcessorPil(**size, image_grid_pinpoints=TILES)
            kind = LlavaNextProcessor
        made = kind(images, words, 14, "default", num_additional_image_tokens=1)
    else:
        kind = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen3VLProcessor
        size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
        images = Qwen2VLImageProcessorPil(size=size)
        made = without_video(kind)(images, words)
    made.chat_template = words.chat_template
    return made


def ids(*marks: str) -> list[int]:
    return tokenizer(QWEN).convert_tokens_to_ids(list(marks))


def model(family: str, seed: int = 0):
    """A model of two layers in each part."""
    start, end, image, video, mark = ids(*VISION)
    torch.manual_seed(seed)
    if family.startswith("llava"):
        sight = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        parts = {"vision_config": sight, "text_config": LlamaConfig(**SMALL)}
        parts |= {"image_token_index": mark, "image_seq_length": 4}
        if family == "llava":
            made = LlavaForConditionalGeneration(LlavaConfig(**parts))
        else:
            config = LlavaNextConfig(**parts, image_grid_pinpoints=TILES)
            made = LlavaNextForConditionalGeneration(config)
    else:
        marks = {
            "vision_start_token_id": start,
            "vision_end_token_id": end,
            "image_token_id": image,
            "video_token_id": video,
        }
        sight = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
        sight |= {"out_hidden_size": 32, "patch_size": 14, "spatial_merge_size": 2}
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        if family == "qwen2_5_vl":
            sight |= {"window_size": 56, "fullatt_block_indexes": [1]}
            config = Qwen2_5_VLConfig(
                text_config={**SMALL, "rope_parameters": rope}, vision_config=sight, **marks
            )
            made = Qwen2_5_VLForConditionalGeneration(config)
        else:
            sight |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
            text = {**SMALL, "head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}}
            config = Qwen3VLConfig(text_config=text, vision_config=sight, **marks)
            made = Qwen3VLForConditionalGeneration(config)
    # Far above the usual spread, so that scores tell pictures and seeds apart.
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed + len(name)))
    return made.eval()


def save(family: str, folder: Path, seed: int = 0) -> Path:
    model(family, seed).save_pretrained(folder)
    processor(family).save_pretrained(folder)
    return folder


def picture(number: int) -> Image.Image:
    """Pictures of different sizes, no two alike."""
    random = np.random.default_rng(number)
    height, width = (28 * (1 + number % 3), 28 * (1 + number // 3 % 3))
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def pair_rows(count: int, pictures: int = 1) -> list[dict]:
    """TRL's rows: pictures beside a conversation that has places for them."""
    return [
        {
            "images": [picture(row + 5 * n) for n in range(pictures)],
            "prompt": [
                {
                    "role": "user",
                    "content": [{"type": "image"}] * pictures
                    + [{"type": "text", "text": f"What is in {row}?"}],
                }
            ],
            "chosen": chat(factory.WORDS[row % 7]),
            "rejected": chat(f"no {factory.WORDS[(row + 2) % 7]}"),
        }
        for row in range(count)
    ]


def chat(text: str) -> list[dict]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
