"""Names of the bundled image models, their pairs and their recipes."""

from diffdpo.data.bundled import is_bundled

PAIRS = "assets/emoji-pairs"
MODEL, RECIPE = "assets/emoji-pipeline", "scripts/recipes/emoji.yaml"
FLOW_MODEL, FLOW_RECIPE = "assets/emoji-flow", "scripts/recipes/emoji_flow.yaml"
ROUNDS_RECIPE = "scripts/recipes/rounds_emoji.yaml"

GUIDANCE = 3.0  # that the bundled models are evaluated at


def draws_emoji(path: str) -> bool:
    """Whether ``path`` is one of the bundled models, whose pictures the style judge knows."""
    return is_bundled(path, MODEL) or is_bundled(path, FLOW_MODEL)
