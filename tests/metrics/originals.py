"""The networks of the official files, in their names and in plain torch: what a converted folder
must agree with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        middle = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        state[name] = middle + 0.2 * torch.randn(shape, generator=generator)
    return state


def layer(name: str, after: int, before: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def layer_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Of ``(N, L, D)``; ``mask`` is added to the logits."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = (logits if mask is None else logits + mask).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


# CLIP as open_clip names it.


def open_clip_shapes(width: int, text: int, out: int, words: int) -> dict[str, tuple[int, ...]]:
    """Two layers a tower, pictures of 32 pixels in patches of 8, 77 tokens."""
    shapes = {
        "visual.class_embedding": (width,), "visual.positional_embedding": (17, width),
        "visual.conv1.weight": (width, 3, 8, 8), "visual.proj": (width, out),
        "token_embedding.weight": (words, text), "positional_embedding": (77, text),
        "text_projection": (text, out), "logit_scale": (),
        **norm("visual.ln_pre", width), **norm("visual.ln_post", width), **norm("ln_final", text),
    }  # fmt: skip
    for prefix, size in (("visual.transformer", width), ("transformer", text)):
        for block in (f"{prefix}.resblocks.{number}" for number in range(2)):
            shapes |= norm(f"{block}.ln_1", size) | norm(f"{block}.ln_2", size)
            shapes |= {f"{block}.attn.in_proj_weight": (3 * size, size)}
            shapes |= {f"{block}.attn.in_proj_bias": (3 * size,)}
            shapes |= layer(f"{block}.attn.out_proj", size, size)
            shapes |= layer(f"{block}.mlp.c_fc", 2 * size, size)
            shapes |= layer(f"{block}.mlp.c_proj", size, 2 * size)
    return shapes


def open_clip_blocks(
    state: State, prefix: str, x: Tensor, heads: int, mask: Tensor | None
) -> Tensor:
    for block in (f"{prefix}.resblocks.{number}" for number in range(2)):
        both = layer_norm(state, f"{block}.ln_1", x)
        weight, bias = (state[f"{block}.attn.in_proj_{part}"] for part in ("weight", "bias"))
        seen = attention(*F.linear(both, weight, bias).chunk(3, dim=-1), heads, mask)
        x = x + linear(state, f"{block}.attn.out_proj", seen)
        inner = F.gelu(linear(state, f"{block}.mlp.c_fc", layer_norm(state, f"{block}.ln_2", x)))
        x = x + linear(state, f"{block}.mlp.c_proj", inner)
    return x


def open_clip_cosine(state: State, pixels: Tensor, ids: Tensor, heads: int) -> float:
    """Of one picture and the tokens of one prompt, whose last is the end of the text."""
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(1, 1, -1), x], dim=1)
    x = layer_norm(state, "visual.ln_pre", x + state["visual.positional_embedding"])
    x = open_clip_blocks(state, "visual.transformer", x, heads, None)
    picture = layer_norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    length = ids.shape[1]
    y = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    causal = torch.full((length, length), -torch.inf).triu(1)
    y = open_clip_blocks(state, "transformer", y, heads, causal)
    text = layer_norm(state, "ln_final", y[:, -1]) @ state["text_projection"]
    return torch.cosine_similarity(picture, text).item()


# ImageReward: BLIP's ViT of timm, BERT with cross-attention, and the head.


def imagereward_shapes(width: int, text: int, words: int) -> dict[str, tuple[int, ...]]:
    eye, mouth = "blip.visual_encoder", "blip.text_encoder"
    shapes = {
        f"{eye}.cls_token": (1, 1, width), f"{eye}.pos_embed": (1, 17, width),
        f"{eye}.patch_embed.proj.weight": (width, 3, 8, 8),
        f"{eye}.patch_embed.proj.bias": (width,),
        f"{mouth}.embeddings.word_embeddings.weight": (words, text),
        f"{mouth}.embeddings.position_embeddings.weight": (64, text),
        **norm(f"{eye}.norm", width), **norm(f"{mouth}.embeddings.LayerNorm", text),
    }  # fmt: skip
    for block in (f"{eye}.blocks.{number}" for number in range(2)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= layer(f"{block}.attn.qkv", 3 * width, width)
        shapes |= layer(f"{block}.attn.proj", width, width)
        shapes |= layer(f"{block}.mlp.fc1", 2 * width, width)
        shapes |= layer(f"{block}.mlp.fc2", width, 2 * width)
    for block in (f"{mouth}.encoder.layer.{number}" for number in range(2)):
        for kind, source in (("attention", text), ("crossattention", width)):
            shapes |= layer(f"{block}.{kind}.self.query", text, text)
            shapes |= layer(f"{block}.{kind}.self.key", text, source)
            shapes |= layer(f"{block}.{kind}.self.value", text, source)
            shapes |= layer(f"{block}.{kind}.output.dense", text, text)
            shapes |= norm(f"{block}.{kind}.output.LayerNorm", text)
        shapes |= layer(f"{block}.intermediate.dense", 2 * text, text)
        shapes |= layer(f"{block}.output.dense", text, 2 * text)
        shapes |= norm(f"{block}.output.LayerNorm", text)
    widths = [text, 16, 8, 8, 4, 1]
    for number, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        shapes |= layer(f"mlp.layers.{number}", after, before)
    return shapes


def imagereward_score(
    state: State, pixels: Tensor, ids: Tensor, mask: Tensor, heads: tuple[int, int]
) -> float:
    """Of one picture and one prompt's tokens, filled up with padding where ``mask`` is 0."""
    eye, mouth = "blip.visual_encoder", "blip.text_encoder"
    weight, bias = (state[f"{eye}.patch_embed.proj.{part}"] for part in ("weight", "bias"))
    x = F.conv2d(pixels, weight, bias, stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{eye}.cls_token"], x], dim=1) + state[f"{eye}.pos_embed"]
    for block in (f"{eye}.blocks.{number}" for number in range(2)):
        qkv = linear(state, f"{block}.attn.qkv", layer_norm(state, f"{block}.norm1", x, 1e-6))
        x = x + linear(state, f"{block}.attn.proj", attention(*qkv.chunk(3, dim=-1), heads[0]))
        inner = F.gelu(
            linear(state, f"{block}.mlp.fc1", layer_norm(state, f"{block}.norm2", x, 1e-6))
        )
        x = x + linear(state, f"{block}.mlp.fc2", inner)
    patches = layer_norm(state, f"{eye}.norm", x, 1e-6)
    y = state[f"{mouth}.embeddings.word_embeddings.weight"][ids]
    y = y + state[f"{mouth}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = layer_norm(state, f"{mouth}.embeddings.LayerNorm", y, 1e-12)
    hidden = (1 - mask.float())[:, None, None] * -1e9
    for block in (f"{mouth}.encoder.layer.{number}" for number in range(2)):
        for kind, source, unseen in (
            ("attention", None, hidden),
            ("crossattention", patches, None),
        ):
            own = f"{block}.{kind}"
            seen = y if source is None else source
            k, v = (linear(state, f"{own}.self.{part}", seen) for part in ("key", "value"))
            read = attention(linear(state, f"{own}.self.query", y), k, v, heads[1], unseen)
            y = layer_norm(
                state,
                f"{own}.output.LayerNorm",
                linear(state, f"{own}.output.dense", read) + y,
                1e-12,
            )
        inner = F.gelu(linear(state, f"{block}.intermediate.dense", y))
        y = layer_norm(
            state,
            f"{block}.output.LayerNorm",
            linear(state, f"{block}.output.dense", inner) + y,
            1e-12,
        )
    score = y[:, 0]
    for number in (0, 2, 4, 6, 7):
        score = linear(state, f"mlp.layers.{number}", score)
    return (score.item() - 0.16717362830052426) / 1.0333394966054072
