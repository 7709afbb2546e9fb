"""From the official files of rewards to the folders that are read here.

The tensors keep their values and types; only names change, and LAION's layers, which have nothing
between them, become one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPVisionModelWithProjection,
)

from diffdpo.engine.digests import file_digest
from diffdpo.errors import UserError, short
from diffdpo.metrics.identity import SOURCE, WEIGHTS
from diffdpo.metrics.weights import folder_of, load_network

State = dict[str, Tensor]
Renames = list[tuple[str, str]]  # pattern and replacement; the first that matches holds

# From open_clip's names to those of CLIPModel.
BLOCKS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
BLOCKS |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
OPEN_CLIP: Renames = [
    (r"visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"ln_final\.", "text_model.final_layer_norm."),
    (r"logit_scale$", "logit_scale"),
]
PROJECTIONS = {"visual.proj": "visual_projection.weight"}
PROJECTIONS |= {"text_projection": "text_projection.weight"}
# From the public ImageReward's names to those of BlipVisionModel.
BLIP_VISION: Renames = [
    (r"cls_token$", "embeddings.class_embedding"),
    (r"pos_embed$", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"norm\.", "post_layernorm."),
]


def convert(name: str, file: Path, folder: Path, base: str) -> None:
    """Write the folder of the reward ``name`` from its official ``file``.

    ``base`` has the tokenizer, or CLIP's image tower. Raises UserError where the file is another
    one, or the base is not there.
    """
    place = f"--file {file}"
    try:
        CONVERSIONS[name](read_state(file), folder, base, place)
    except (KeyError, ValueError) as error:
        raise UserError(f"{place}: is not the file of {name} ({short(error)})") from error
    source = {"reward": name, "file": file.name, "sha256": file_digest(file)}
    (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n")


def read_state(file: Path) -> State:
    """The tensors of a file by their names. Raises UserError where it holds anything else."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # The one place where a pickle is read, and of it nothing but tensors.
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file may hold anything
        reason = short(error, 120) or type(error).__name__
        raise UserError(f"--file {file}: holds no plain tensors ({reason})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"--file {file}: holds no tensors by name")
    return state


def hps(state: State, folder: Path, base: str, place: str, heads: int = 16) -> None:
    """HPSv2 and v2.1: CLIP ViT-H/14 in open_clip's names, whose towers have ``heads`` each."""
    tensors: State = {}
    for key, tensor in state.items():
        tensors |= clip_tensors(key, tensor, place)
    config = CLIPConfig(
        text_config=text_settings(tensors) | {"num_attention_heads": heads},
        vision_config=vision_settings(tensors) | {"num_attention_heads": heads},
        projection_dim=tensors["text_projection.weight"].shape[0],
    )
    write(folder, config, "CLIPModel", tensors)
    save_tokenizer(base, folder)


def clip_tensors(key: str, tensor: Tensor, place: str) -> State:
    """A tensor of open_clip in CLIPModel's form: one, or queries, keys and values of one matrix."""
    if key in PROJECTIONS:
        return {PROJECTIONS[key]: tensor.T.contiguous()}
    name = renamed(key, OPEN_CLIP, place)
    for old, new in BLOCKS.items():
        name = re.sub(rf"(?<=\d\.){re.escape(old)}(?=\.)", new, name)
    if match := re.fullmatch(r"(.*\.)attn\.in_proj_(weight|bias)", name):
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{match[1]}self_attn.{q}_proj.{match[2]}": part.clone() for q, part in parts}
    return {name: tensor}


def text_settings(tensors: State) -> dict[str, Any]:
    """The settings of CLIP's text tower, from the shapes of its tensors."""
    words, width = tensors["text_model.embeddings.token_embedding.weight"].shape
    return {
        **tower_settings(tensors, "text_model"),
        "hidden_size": width,
        "vocab_size": words,
        "max_position_embeddings": len(tensors["text_model.embeddings.position_embedding.weight"]),
        # The last two words of CLIP's vocabulary.
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }


def vision_settings(tensors: State) -> dict[str, Any]:
    """The settings of CLIP's image tower, from the shapes of its tensors."""
    width, _, patch, _ = tensors["vision_model.embeddings.patch_embedding.weight"].shape
    places = len(tensors["vision_model.embeddings.position_embedding.weight"])
    return {
        **tower_settings(tensors, "vision_model"),
        "hidden_size": width,
        "patch_size": patch,
        "image_size": patch * isqrt(places - 1),
    }


def tower_settings(tensors: State, tower: str) -> dict[str, Any]:
    """What both towers have."""
    layers = f"{tower}.encoder.layers."
    return {
        "num_hidden_layers": count(tensors, layers),
        "intermediate_size": len(tensors[f"{layers}0.mlp.fc1.weight"]),
        "projection_dim": len(tensors["text_projection.weight"]),
        "hidden_act": "gelu",
    }


def laion(state: State, folder: Path, base: str, place: str) -> None:
    """LAION's aesthetic predictor: its layers as one row beside CLIP's image tower."""
    numbers = [re.fullmatch(r"layers\.(\d+)\.weight", key) for key in state]
    weight, bias = torch.empty(0), torch.empty(0)
    for number in sorted(int(match[1]) for match in numbers if match):
        layer, shift = (state[f"layers.{number}.{part}"].double() for part in ("weight", "bias"))
        weight, bias = (layer @ weight, layer @ bias + shift) if len(weight) else (layer, shift)
    if weight.shape[:1] != (1,):
        raise ValueError("no layers.N.weight that end in one number")
    source = folder_of("laion_aesthetic", base, base, "a CLIP image tower")
    options = {"spare": ("text_", "logit_")}
    tower = load_network(CLIPVisionModelWithProjection, source, f"--base {base}", **options)
    if tower.config.projection_dim != weight.shape[1]:
        wanted, found = weight.shape[1], tower.config.projection_dim
        raise UserError(
            f"--base {base}: gives {found} numbers a picture, and {place} reads {wanted}"
        )
    tower.save_pretrained(folder)
    save_file({"weight": weight.float(), "bias": bias.float()}, folder / "head.safetensors")


def imagereward(
    state: State, folder: Path, base: str, place: str, heads: tuple[int, int] = (16, 12)
) -> None:
    """ImageReward: BLIP with ViT-L/16 and BERT; ``heads`` are those of the two."""
    vision, text, head = (
        beneath(state, part) for part in ("blip.visual_encoder.", "blip.text_encoder.", "mlp.")
    )
    vision = {renamed(key, BLIP_VISION, place): tensor for key, tensor in vision.items()}
    text.pop("embeddings.position_ids", None)
    write(folder / "vision_model", blip_vision(vision, heads[0]), "BlipVisionModel", vision)
    write(folder / "text_model", blip_text(text, heads[1]), "BlipTextModel", text)
    save_file(contiguous(head), folder / "head.safetensors")
    # BLIP adds two words, which the score does not use but the vocabulary counts.
    save_tokenizer(base, folder / "tokenizer", ("[DEC]", "[ENC]"))


def blip_vision(tensors: State, heads: int) -> BlipVisionConfig:
    """The settings of the image tower, from the shapes of its tensors."""
    width, _, patch, _ = tensors["embeddings.patch_embedding.weight"].shape
    return BlipVisionConfig(
        hidden_size=width,
        patch_size=patch,
        image_size=patch * isqrt(tensors["embeddings.position_embedding"].shape[1] - 1),
        num_hidden_layers=count(tensors, "encoder.layers."),
        intermediate_size=len(tensors["encoder.layers.0.mlp.fc1.weight"]),
        num_attention_heads=heads,
        layer_norm_eps=1e-6,
    )


def blip_text(tensors: State, heads: int) -> BlipTextConfig:
    """The settings of the text network, from the shapes of its tensors."""
    words, width = tensors["embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        max_position_embeddings=len(tensors["embeddings.position_embeddings.weight"]),
        num_hidden_layers=count(tensors, "encoder.layer."),
        intermediate_size=len(tensors["encoder.layer.0.intermediate.dense.weight"]),
        encoder_hidden_size=tensors["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        num_attention_heads=heads,
        is_decoder=True,
    )


def renamed(key: str, rules: Renames, place: str) -> str:
    """The new name of a tensor. Raises UserError where it has none."""
    for pattern, new in rules:
        if match := re.match(pattern, key):
            return match.expand(new) + key[match.end() :]
    raise UserError(f"{place}: holds {short(key)}, which no tensor of the official file is called")


def beneath(state: State, prefix: str) -> State:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def count(tensors: State, prefix: str) -> int:
    """How many layers there are."""
    rest = (key.removeprefix(prefix) for key in tensors if key.startswith(prefix))
    return 1 + max((int(name.split(".")[0]) for name in rest), default=-1)


def contiguous(tensors: State) -> State:
    """The tensors each in memory of its own, as their file wants them."""
    return {key: tensor.clone().contiguous() for key, tensor in tensors.items()}


def write(folder: Path, config: Any, kind: str, tensors: State) -> None:
    """Write a network as ``save_pretrained`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [kind]
    config.save_pretrained(folder)
    save_file(contiguous(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def save_tokenizer(base: str, folder: Path, added: Sequence[str] = ()) -> None:
    """Write a tokenizer with special words ``added``. Raises UserError where there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except Exception as error:  # of the network, of the hub, of its files
        reason = short(error, 120) or type(error).__name__
        raise UserError(f"--base {base}: no tokenizer can be read there ({reason})") from error
    tokenizer.add_tokens(list(added), special_tokens=True)
    tokenizer.save_pretrained(folder)


CONVERSIONS: dict[str, Callable[[State, Path, str, str], None]] = {
    "hpsv2": hps,
    "hpsv2.1": hps,
    "laion_aesthetic": laion,
    "imagereward": imagereward,
}
