"""Settings of how prompts are encoded, for training and sampling alike."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.flags import flag


@dataclass(frozen=True)
class PromptSettings(BaseSettings):
    """What the embeddings of prompts depend on, beside the text encoders."""

    max_sequence_length: int | None = flag(
        None,
        "tokens of a prompt that T5 and its like read; default: as many as in the pipeline's call",
        group="model",
        least=1,
        most=512,
    )
