"""ImageReward: BLIP reads a prompt while it looks at a picture, and a linear head scores what it
has read (Xu et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BlipTextModel, BlipVisionModel

from diffdpo.errors import UserError
from diffdpo.metrics.identity import digest_of, network_name, origin, tokenizer_digest, weight_files
from diffdpo.metrics.network_reward import Words, remembering
from diffdpo.metrics.pixels import CROP_EVEN
from diffdpo.metrics.reward import Reward
from diffdpo.metrics.weights import (
    folder_of,
    listed,
    load_head,
    load_network,
    load_tokenizer,
    place_of,
    side_of,
)

HOLDS = "vision_model/ (BlipVisionModel), text_model/ (BlipTextModel), tokenizer/, head.safetensors"
LENGTH = 35  # tokens of a prompt that the public weights were trained on
# Of the head's output on the training set, in the public code.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LAYER = re.compile(r"layers\.(\d+)\.(weight|bias)")


class ImageReward(nn.Module):
    """The two networks of the reward; the head stays outside, in float64."""

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel) -> None:
        super().__init__()
        self.vision, self.text = vision, text

    def forward(self, pixels_NCHW: Tensor, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """What the text network makes of the first token, ``(N, D)``."""
        patches = self.vision(pixel_values=pixels_NCHW).last_hidden_state
        # Neither causal, as is_decoder=True would be, nor with [ENC] as the first token: the public
        # code leaves [CLS] there.
        read = self.text(
            input_ids=tokens_NL,
            attention_mask=mask_NL,
            encoder_hidden_states=patches,
            is_decoder=False,
        )
        return read.last_hidden_state[:, 0]


def open_reward(name: str, path: str | None = None) -> Reward:
    """ImageReward with the weights in a folder. Raises UserError where they cannot be loaded."""
    folder, place = folder_of(name, path, None, HOLDS), place_of(name, path)
    network = load_networks(folder, place)
    side, text = side_of(network.vision.config, place), network.text.config
    tokenizer = load_tokenizer(folder / "tokenizer", f"{place}/tokenizer", text.vocab_size)
    words = Words(tokenizer, min(LENGTH, text.max_position_embeddings))
    layers = head_layers(load_head(folder, place), text.hidden_size, place)

    @torch.no_grad()
    def score(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        weight = next(network.parameters())
        pixels = torch.from_numpy(CROP_EVEN.pixels(pictures, side)).to(weight.device, weight.dtype)
        tokens = words.tokens(prompts, weight.device)
        state = network(pixels, tokens["input_ids"], tokens["attention_mask"]).cpu().double()
        for weight_OI, bias_O in layers:  # with nothing between them
            state = state @ weight_OI.T + bias_O
        return ((state[:, 0] - MEAN) / STD).numpy()

    parts = [folder / "vision_model", folder / "text_model"]
    files = [file for part in parts for file in weight_files(part)]
    identity = {
        **origin(folder),
        "weights": digest_of([*files, folder / "head.safetensors"]),
        "network": " ".join(network_name(part, part.name) for part in parts),
        "pictures": f"{side} px {CROP_EVEN.text}",
        "text": f"{words.length} tokens of {tokenizer_digest(folder / 'tokenizer')}",
        "scale": "as published",
    }
    return Reward(name, remembering(score, network), identity, network, words.too_long)


def load_networks(folder: Path, place: str) -> ImageReward:
    """Both networks. Raises UserError where they cannot be loaded or do not fit each other."""
    vision = load_network(BlipVisionModel, folder / "vision_model", f"{place}/vision_model")
    text = load_network(
        BlipTextModel,
        folder / "text_model",
        f"{place}/text_model",
        spare=("pooler.",),
        add_pooling_layer=False,
    )
    if not text.config.is_decoder:
        raise UserError(
            f"{place}/text_model: its config.json says is_decoder false, and without it the"
            " network does not look at pictures"
        )
    width, wanted = vision.config.hidden_size, text.config.encoder_hidden_size
    if width != wanted:
        raise UserError(
            f"{place}: text_model reads pictures of width {wanted}, and vision_model gives {width}"
        )
    return ImageReward(vision, text)


def head_layers(head: dict[str, Tensor], width: int, place: str) -> list[tuple[Tensor, Tensor]]:
    """Weight ``(O, I)`` and bias ``(O,)`` of each layer of the head, from ``width`` numbers to one.

    Raises UserError where the layers do not follow each other so.
    """
    names = [LAYER.fullmatch(name) for name in head]
    numbers = sorted({int(match[1]) for match in names if match})
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    wanted = {f"layers.{number}.{part}" for number in numbers for part in ("weight", "bias")}
    weights = [shapes.get(f"layers.{number}.weight", ()) for number in numbers]
    fits = bool(numbers) and wanted == set(head) and all(len(shape) == 2 for shape in weights)
    if fits:
        widths = [width, *(shape[0] for shape in weights)]
        fits = widths[-1] == 1 and all(
            shape == (after, before) and shapes[f"layers.{number}.bias"] == (after,)
            for number, shape, (before, after) in zip(
                numbers, weights, pairwise(widths), strict=True
            )
        )
    if not fits:
        raise UserError(
            f"{place}: head.safetensors holds {listed(shapes)}; needed: layers.N.weight and"
            f" layers.N.bias of linear layers from {width} numbers to 1"
        )
    return [(head[f"layers.{n}.weight"], head[f"layers.{n}.bias"]) for n in numbers]
