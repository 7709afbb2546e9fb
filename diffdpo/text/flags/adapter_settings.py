"""The flags of adapters on a language model, named as in TRL's scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diffdpo.errors import short
from diffdpo.flags import flag
from diffdpo.text.flags.bits_settings import TextBitsSettings

ALL_LINEAR = ["all-linear"]
# peft's names; those of N iterations are a quicker way to the first ones.
STARTS = re.compile(r"gaussian|olora|pissa|pissa_niter_[0-9]{1,3}")
OF_A_NEW_ONE = ("init_lora_weights", "lora_modules_to_save")
FORMS = ("use_rslora", "use_dora")
OF_ANY = ("lora_r", "lora_alpha", "lora_target_modules", *FORMS, *OF_A_NEW_ONE)


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
    init_lora_weights: str | None = flag(
        None,
        "how the LoRA begins: gaussian, pissa, pissa_niter_N or olora, as peft calls it; default:"
        " at random, times 0",
        group="model",
    )
    lora_target_modules: list[str] = flag(
        ALL_LINEAR, "layers that get an adapter; a single word may be a pattern", group="model"
    )
    lora_modules_to_save: list[str] = flag(
        [],
        "modules that are trained with all their weights beside the LoRA, such as embed_tokens",
        group="model",
    )

    @property
    def splits_base(self) -> bool:
        """Whether the LoRA begins as a part that is taken out of the weights beneath it."""
        return self.init_lora_weights not in (None, "gaussian")

    def problems(self) -> list[str]:
        lines, start = super().problems(), self.init_lora_weights
        if not self.use_peft:
            plain = TextAdapterSettings()
            given = [n for n in OF_ANY if getattr(self, n) != getattr(plain, n)]
            lines += [f"--{name} is about a new LoRA; add --use_peft" for name in given]
        lines += pattern_problems(self.lora_target_modules)
        if start and not STARTS.fullmatch(start):
            known = "gaussian, pissa, pissa_niter_N, olora"
            lines.append(f"--init_lora_weights {short(repr(start))} is unknown; known: {known}")
        elif self.splits_base and self.use_dora:
            lines.append(
                f"--init_lora_weights {start}: what --use_dora trains is no sum of the weights and"
                " a LoRA; keep one"
            )
        elif self.splits_base and self.base_bits not in (None, "bf16"):
            lines.append(
                f"--init_lora_weights {start} takes a part out of the weights, and {self.bits_flag}"
                " has rounded them; keep one"
            )
        return lines

    def problems_in_shares(self) -> list[str]:
        lines = super().problems_in_shares()
        if self.splits_base:
            start = self.init_lora_weights
            lines.append(f"--init_lora_weights {start}: not with weights in shares (FSDP2)")
        return lines


def pattern_problems(words: list[str]) -> list[str]:
    """A line where a single word, which peft reads as a pattern, is none."""
    try:
        re.compile(words[0] if len(words) == 1 else "")
    except re.error as error:
        return [f"--lora_target_modules {short(repr(words[0]))} is no pattern ({error})"]
    return []
