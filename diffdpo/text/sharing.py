"""When the prompt of a pair is computed once for both completions."""

from __future__ import annotations

from transformers import PreTrainedModel

# Measured on one CPU core, forward and backward of Llama bodies 128, 384 and 1024 wide, 12 shapes
# of pairs: a row takes 0.58 of the time of two at (400, 50, 50) tokens and width 384, 0.93 at (100,
# 200, 200), 1.27 at (200, 700, 700); as long is where a prompt token saves what 8 · width more
# pairs of tokens cost in the attention.
WORTH = 8


def pays(lengths: tuple[int, ...], width: int) -> bool:
    """Whether one row of prompt, chosen and rejected costs less than two with the prompt in each:
    the products with weights that it saves, against the pairs of tokens by which its masked square
    is more than two triangles."""
    prompt, chosen, rejected = lengths
    apart = ((prompt + chosen) ** 2 + (prompt + rejected) ** 2) / 2
    return WORTH * width * prompt >= (prompt + chosen + rejected) ** 2 - apart


def obstacle(network: PreTrainedModel) -> str | None:
    """Why sharing cannot work, as far as the configuration tells."""
    config, attention = network.config.get_text_config(), network.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        return f"{attention} attention takes no mask of its own"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if (
        kinds
        or getattr(config, "sliding_window", None)
        or getattr(config, "attention_chunk_size", None)
    ):
        return "layers that see a part of the tokens would count the other completion in"
    return None
