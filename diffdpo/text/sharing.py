"""Decides whether the prompt of a pair is computed once for both completions."""

from __future__ import annotations

from transformers import PreTrainedModel

# Measured on one CPU core, forward and backward of Llama bodies 128, 384 and 1024 wide, 12 shapes
# of pairs: one row takes 0.58 of the time of two at (400, 50, 50) tokens and width 384, 0.93 at
# (100, 200, 200), 1.27 at (200, 700, 700). They are even where the time that a prompt
# token saves is that of 8 · width pairs of tokens in the attention.
WORTH = 8


def pays(lengths: tuple[int, ...], width: int) -> bool:
    """Whether one row of prompt, chosen and rejected takes less time than two rows with the prompt
    in each.

    It saves the prompt's products with the weights once. It pays with pairs of tokens in the
    attention: a masked row is computed as a full square, a causal one as half a square.
    """
    prompt, chosen, rejected = lengths
    apart = ((prompt + chosen) ** 2 + (prompt + rejected) ** 2) / 2
    return WORTH * width * prompt >= (prompt + chosen + rejected) ** 2 - apart


def obstacle(network: PreTrainedModel) -> str | None:
    """The reason why a network cannot share prompts, as far as its configuration tells, or None."""
    config, attention = network.config.get_text_config(), network.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        return f"{attention} attention takes no mask of its own"
    # A window counts positions in the row, where the second completion stands behind the first.
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if (
        kinds
        or getattr(config, "sliding_window", None)
        or getattr(config, "attention_chunk_size", None)
    ):
        return "layers that see a part of the tokens would count the other completion in"
    if kind := rope_by_length(network):
        return f"the frequencies of its {kind} position embedding follow the longest row"
    return None


def rope_by_length(network: PreTrainedModel) -> str | None:
    """The type of a rotary embedding whose frequencies depend on the longest row of a pass; None
    for the usual ones, which depend on the position alone."""
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # A model may have one set of parameters for each type of layer.
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        kind = part.get("rope_type", part.get("type"))
        if kind in ("dynamic", "longrope", "su"):
            return str(kind)
    return None
