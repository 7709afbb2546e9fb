"""Settings of clips, the items of models of video."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.flags import flag


@dataclass(frozen=True)
class ClipSettings(BaseSettings):
    """The length of clips."""

    num_frames: int | None = flag(
        None,
        "frames of a clip, the first of each; default: what the first pair has, at most the model's"
        " own; pictures have 1",
        group="data",
        changes="encodings",
        least=1,
        most=10_000,
    )
