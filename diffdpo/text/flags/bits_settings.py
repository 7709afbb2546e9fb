"""The flags of a base model in few bits under adapters (QLoRA), under TRL's names and those of
image training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffdpo.engine.bits_settings import (
    BASE_PRECISIONS,
    STORED,
    bits_problems,
    not_in_bfloat16,
    not_in_shares,
)
from diffdpo.flags import flag
from diffdpo.text.flags.loss_settings import TextLossSettings

DTYPES = ["float32", "float16", "bfloat16"]
FOUR_BITS = ["nf4", "fp4"]
EIGHT_BITS = "llm_int8"  # Dettmers et al. 2022, arXiv 2208.07339; int8 is torchao's
OF_FOUR = ["bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_compute_dtype"]
OF_FOUR += ["bnb_4bit_quant_storage"]


@dataclass(frozen=True)
class TextBitsSettings(TextLossSettings):
    """How a language model is stored where it is frozen under adapters."""

    base_precision: str | None = flag(
        None, STORED, group="model", choices=BASE_PRECISIONS, changes="scores"
    )
    load_in_4bit: bool = flag(
        False,
        "store the weights under a LoRA in 4 bits, by bitsandbytes on a GPU (QLoRA)",
        group="model",
        changes="scores",
    )
    load_in_8bit: bool = flag(
        False, "the same in 8 bits (LLM.int8())", group="model", changes="scores"
    )
    bnb_4bit_quant_type: str | None = flag(
        None,
        "the numbers that 4 bits stand for; default: nf4",
        group="model",
        choices=FOUR_BITS,
        changes="scores",
    )
    use_bnb_nested_quant: bool = flag(
        False,
        "store the scales of 4-bit weights in 8 bits",
        aliases=["--bnb_4bit_use_double_quant"],
        group="model",
        changes="scores",
    )
    bnb_4bit_compute_dtype: str | None = flag(
        None,
        "in what 4-bit weights compute; default: as mixed_precision says",
        group="model",
        choices=DTYPES,
        changes="scores",
    )
    bnb_4bit_quant_storage: str | None = flag(
        None,
        "the type of the tensors that 4-bit weights are packed in; default: uint8",
        group="model",
        choices=[*DTYPES, "uint8"],
    )

    @property
    def base_bits(self) -> str | None:
        """How the frozen base is stored, by any of the flags; None: as ``mixed_precision`` says."""
        if self.load_in_4bit:
            return self.bnb_4bit_quant_type or FOUR_BITS[0]
        return EIGHT_BITS if self.load_in_8bit else self.base_precision

    @property
    def bits_flag(self) -> str:
        """The flag that ``base_bits`` comes from."""
        four = "--load_in_4bit" if self.load_in_4bit else f"--base_precision {self.base_precision}"
        return "--load_in_8bit" if self.load_in_8bit else four

    @property
    def four_bits(self) -> dict[str, Any]:
        """The options of 4-bit weights that are given, by bitsandbytes' names for them."""
        options = {
            "bnb_4bit_use_double_quant": self.use_bnb_nested_quant or None,
            "bnb_4bit_compute_dtype": self.bnb_4bit_compute_dtype,
            "bnb_4bit_quant_storage": self.bnb_4bit_quant_storage,
        }
        return {name: value for name, value in options.items() if value is not None}

    @property
    def precision(self) -> str | None:
        """The precision; where nothing else is asked for, weights in few bits compute in bf16."""
        return super().precision or ("bf16" if self.base_bits else None)

    def problems(self) -> list[str]:
        lines = super().problems() + bits_problems(self.base_precision)
        given = [f"--base_precision {self.base_precision}"] if self.base_precision else []
        given += [f"--{n}" for n in ("load_in_4bit", "load_in_8bit") if getattr(self, n)]
        if len(given) > 1:
            lines.append(f"{' and '.join(given)} exclude each other; keep one")
        four = self.load_in_4bit or self.base_precision == "nf4"
        if not four:
            told = [f"--{name}" for name in OF_FOUR if getattr(self, name)]
            lines += [f"{name} belongs to --load_in_4bit; add that" for name in told]
        if self.base_precision == "nf4" and self.bnb_4bit_quant_type == "fp4":
            lines.append("--base_precision nf4 is no fp4; take --load_in_4bit instead")
        asked = "--fp16" if self.fp16 else f"--mixed_precision {self.mixed_precision}"
        lines += not_in_bfloat16(self.base_precision, super().precision, asked)
        return lines

    def problems_in_shares(self) -> list[str]:
        lines = super().problems_in_shares() + not_in_shares(self.base_precision)
        if self.load_in_4bit or self.load_in_8bit:
            lines.append(
                f"{self.bits_flag}: not with weights in shares (FSDP2); take --base_precision int8,"
                " which every process holds whole"
            )
        return lines
