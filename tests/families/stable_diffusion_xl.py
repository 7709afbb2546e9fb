from __future__ import annotations

from typing import Any

from tests.factory import whole_pipeline


def tiny(distilled: bool = False) -> Any:
    return whole_pipeline("StableDiffusionXLPipeline")
