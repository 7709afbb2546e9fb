"""Tiny networks of random weights in the folder forms of the rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from tests import factory

CLIP_ROWS = ("pickscore", "hpsv2", "hpsv2.1", "clipscore")
WITH_WEIGHTS = (*CLIP_ROWS, "laion_aesthetic", "imagereward", "vqascore")
SIDE = 32
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture in which neighbours differ, so that every rule of making it small is another."""
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values)


def shaken(network: nn.Module, seed: int) -> nn.Module:
    """The network with weights of this seed, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.copy_(middle + 0.2 * torch.randn(weight.shape, generator=generator))
    return network.eval()


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel of about 50,000 weights and its tokenizer."""
    text = {**factory.text_config(32, 24).to_dict(), "max_position_embeddings": 77}
    vision = {**VISION, "hidden_act": "gelu", "projection_dim": 24}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    network = shaken(CLIPModel(config), seed)
    nn.init.constant_(network.logit_scale, 4.6)
    network.save_pretrained(folder)
    factory.tokenizer().save_pretrained(folder)
    return folder


def save_laion(folder: Path, seed: int = 0) -> Path:
    config = CLIPVisionConfig(**VISION, projection_dim=24)
    shaken(CLIPVisionModelWithProjection(config), seed).save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    head = {"weight": 5 * torch.randn(1, 24, generator=generator), "bias": torch.tensor([5.2])}
    save_file(head, folder / "head.safetensors")
    return folder


def save_imagereward(folder: Path, seed: int = 0) -> Path:
    vision = BlipVisionConfig(**VISION, layer_norm_eps=1e-6)
    shaken(BlipVisionModel(vision), seed).save_pretrained(folder / "vision_model")
    text = BlipTextConfig(
        vocab_size=60,
        hidden_size=24,
        encoder_hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=64,
        is_decoder=True,
    )
    network = shaken(BlipTextModel(text, add_pooling_layer=False), seed)
    network.save_pretrained(folder / "text_model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    tokenizer.save_pretrained(folder / "tokenizer")
    generator, head = torch.Generator().manual_seed(seed), {}
    widths = [24, 16, 8, 8, 4, 1]
    # The numbers of torch's Sequential, in which dropouts count.
    for layer, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        weight = torch.randn(after, before, generator=generator) / before**0.5
        head[f"layers.{layer}.weight"] = weight
        head[f"layers.{layer}.bias"] = torch.randn(after, generator=generator)
    save_file(head, folder / "head.safetensors")
    return folder


def byte_tokenizer(special: list[str], pad: str, end: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which Yes and No are words."""
    vocabulary = {
        letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o")]
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, eos_token=end, additional_special_tokens=special
    )


def template(picture: str) -> str:
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + picture
        + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def save_qwen(folder: Path, seed: int = 0) -> Path:
    """A model that reads pictures of any size, by as many tokens as they need."""
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    marks += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(marks, "<|endoftext|>", "<|im_end|>")
    tokenizer.chat_template = template("<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=56 * 56
    ).save_pretrained(folder)
    start, end, picture, video = tokenizer.convert_tokens_to_ids(marks[2:])
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4
            },
        },
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=picture, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    shaken(Qwen2VLForConditionalGeneration(config), seed).save_pretrained(folder)
    return folder


def save_llava(folder: Path, seed: int = 0) -> Path:
    """A model that reads every picture by the same number of tokens."""
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>", "<image>"], "<pad>", "<|im_end|>")
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    processor.save_pretrained(folder)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    shaken(LlavaForConditionalGeneration(config), seed).save_pretrained(folder)
    return folder


SAVE = dict.fromkeys(CLIP_ROWS, save_clip)
SAVE |= {"laion_aesthetic": save_laion, "imagereward": save_imagereward, "vqascore": save_qwen}
