"""The flags of adapters on a language model, named as in TRL's scripts."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.flags import flag
from diffdpo.text.bits_settings import TextBitsSettings

ALL_LINEAR = ["all-linear"]


@dataclass(frozen=True)
class TextAdapterSettings(TextBitsSettings):
    """Whether adapters are trained, and which."""

    use_peft: bool = flag(
        False,
        "train a LoRA; left out: full fine-tune, or the adapter that is loaded",
        group="model",
    )
    lora_r: int = flag(
        16, "rank of the LoRA", aliases=["--lora_rank"], group="model", least=1, most=2**16
    )
    lora_alpha: int = flag(32, "the LoRA is scaled by lora_alpha / lora_r", group="model", least=1)
    use_rslora: bool = flag(
        False, "the LoRA is scaled by lora_alpha / sqrt(lora_r) instead", group="model"
    )
    use_dora: bool = flag(
        False, "the LoRA trains directions and lengths of weights apart (DoRA)", group="model"
    )
    lora_target_modules: list[str] = flag(ALL_LINEAR, "layers that get an adapter", group="model")
