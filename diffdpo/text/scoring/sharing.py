"""Why a network cannot compute the prompt of a pair once for both completions."""

from __future__ import annotations

from transformers import PreTrainedModel

from diffdpo.text.scoring.flexible import FLEXIBLE
from diffdpo.text.scoring.packed import PACKED


def obstacle(network: PreTrainedModel) -> str | None:
    """The reason why a network cannot share prompts, as far as its configuration tells, or None."""
    attention = network.config._attn_implementation
    if attention not in ("sdpa", "eager", PACKED, FLEXIBLE):
        return f"{attention} attention takes no mask of its own"
    # A window counts positions in the row, where the second completion stands behind the first.
    if sees_a_part(network):
        return "layers that see a part of the tokens would count the other completion in"
    if kind := rope_by_length(network):
        return f"the frequencies of its {kind} position embedding follow the longest row"
    return None


def sees_a_part(network: PreTrainedModel) -> bool:
    """Whether layers see a part of the tokens before one alone."""
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    return bool(
        kinds
        or getattr(config, "sliding_window", None)
        or getattr(config, "attention_chunk_size", None)
    )


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
