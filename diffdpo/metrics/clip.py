"""Rewards of CLIP networks: how near a picture and its prompt are, one row each, and the aesthetic
predictor on CLIP's picture alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPVisionModelWithProjection

from diffdpo.metrics.identity import (
    TOKENIZER,
    digest_of,
    network_name,
    origin,
    tokenizer_digest,
    weight_files,
)
from diffdpo.metrics.network_reward import Words, remembering
from diffdpo.metrics.pixels import CROP, CROP_EVEN, PAD, ImageRule
from diffdpo.metrics.reward import Reward
from diffdpo.metrics.weights import (
    check_shapes,
    folder_of,
    load_head,
    load_network,
    load_tokenizer,
    place_of,
    side_of,
)

HOLDS = "a CLIPModel and its tokenizer, each by save_pretrained"
LAION_HOLDS = "a CLIPVisionModelWithProjection by save_pretrained, and head.safetensors"


@dataclass(frozen=True)
class ClipRow:
    """One reward of the CLIP family.

    ``score`` takes the cosines ``(N,)`` of pictures and prompts, and exp(logit_scale). ``hub`` has
    weights that are read as they are, ``words`` their tokenizer.
    """

    rule: ImageRule
    scale: str
    score: Callable[[Tensor, float], Tensor]
    hub: str | None = None
    words: str | None = None


ROWS = {
    # Kirstain et al. 2023, eq. 2.
    "pickscore": ClipRow(
        CROP,
        "exp(logit_scale) cos",
        lambda cosine, scale: scale * cosine,
        "yuvalkirstain/PickScore_v1",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    # Wu et al. 2023, section 4.
    "hpsv2": ClipRow(PAD, "cos", lambda cosine, scale: cosine),
    "hpsv2.1": ClipRow(PAD, "cos", lambda cosine, scale: cosine),
    # Hessel et al. 2021, at a weight of 100.
    "clipscore": ClipRow(
        CROP,
        "max(0, 100 cos)",
        lambda cosine, scale: (100 * cosine).clamp(min=0),
        "openai/clip-vit-large-patch14",
        "openai/clip-vit-large-patch14",
    ),
}


def open_reward(name: str, path: str | None = None) -> Reward:
    """The reward ``name``, with the weights in the folder, or at the hub id, ``path``."""
    return laion(path) if name == "laion_aesthetic" else clip_reward(name, path)


def clip_reward(name: str, path: str | None) -> Reward:
    """A row of the table above. Raises UserError where its weights cannot be loaded."""
    row = ROWS[name]
    folder, place = folder_of(name, path, row.hub, HOLDS), place_of(name, path)
    network = load_network(CLIPModel, folder, place)
    text, side = network.config.text_config, side_of(network.config.vision_config, place)
    text_folder = folder
    if path in (None, row.hub):  # the row's own id, whose tokenizer may be under another
        text_folder = folder_of(name, None, row.words, HOLDS, TOKENIZER)
    tokenizer = load_tokenizer(text_folder, place, text.vocab_size)
    words = Words(tokenizer, text.max_position_embeddings)
    scale = float(network.logit_scale.exp())  # here, before a lower precision rounds it

    @torch.no_grad()
    def score(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        device = network.device
        pixels = torch.from_numpy(row.rule.pixels(pictures, side)).to(device, network.dtype)
        # Objects whose pooler_output is the projected embedding; once the embedding itself.
        picture = embedding(network.get_image_features(pixel_values=pixels))
        prompt = embedding(network.get_text_features(**words.tokens(prompts, device)))
        return row.score((picture * prompt).sum(dim=1), scale).double().cpu().numpy()

    identity = {
        **origin(folder),
        "weights": digest_of(weight_files(folder)),
        "network": network_name(folder, "CLIPModel"),
        "pictures": f"{side} px {row.rule.text}",
        "text": f"{words.length} tokens of {tokenizer_digest(text_folder)}",
        "scale": row.scale,
    }
    return Reward(name, remembering(score, network), identity, network, words.too_long)


def embedding(features: Any) -> Tensor:
    """Embeddings ``(N, D)`` in float32, of length 1."""
    return normalize(getattr(features, "pooler_output", features).float(), dim=1)


def laion(path: str | None) -> Reward:
    """LAION's aesthetic predictor v2: a linear function of CLIP's embedding of length 1, about 4 to
    7. It reads no prompt.

    Raises UserError where its weights cannot be loaded.
    """
    name = "laion_aesthetic"
    folder, place = folder_of(name, path, None, LAION_HOLDS), place_of(name, path)
    # The folder may hold the whole CLIP, whose text side is not asked.
    network = load_network(CLIPVisionModelWithProjection, folder, place, spare=("text_", "logit_"))
    head = load_head(folder, place)
    check_shapes(head, {"weight": (1, network.config.projection_dim), "bias": (1,)}, place)
    side = side_of(network.config, place)

    @torch.no_grad()
    def score(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        pixels = torch.from_numpy(CROP_EVEN.pixels(pictures, side))
        features = network(pixel_values=pixels.to(network.device, network.dtype)).image_embeds
        unit = embedding(features).cpu().double()
        return (unit @ head["weight"][0] + head["bias"]).numpy()

    identity = {
        **origin(folder),
        "weights": digest_of([*weight_files(folder), folder / "head.safetensors"]),
        "network": network_name(folder, "CLIPVisionModelWithProjection"),
        "pictures": f"{side} px {CROP_EVEN.text}",
        "scale": "as published",
    }
    again = remembering(score, network)
    return Reward(name, again, identity, network, reads_prompts=False)
