"""The names of the precisions that frozen weights can be stored in."""

from __future__ import annotations

from diffdpo.errors import not_installed

BASE_PRECISIONS = ["bf16", "fp8", "int8", "fp8_torchao", "nf4"]
STORED = (
    "how the model's weights are stored where they are frozen under adapters: bf16, fp8 (layer"
    " by layer), int8 or fp8_torchao (torchao), nf4 (bitsandbytes, on a GPU); they compute in"
    " bf16; default: as mixed_precision says"
)


def bits_problems(base_precision: str | None) -> list[str]:
    """A line where what a precision of frozen weights needs is not installed."""
    package = {"int8": "torchao", "fp8_torchao": "torchao"}.get(base_precision or "")
    return not_installed(package) if package else []


def not_in_shares(base_precision: str | None) -> list[str]:
    """A line where weights in this precision cannot be put in shares, nor be held beside them."""
    if base_precision not in ("fp8", "nf4"):
        return []
    return [
        f"--base_precision {base_precision}: not with weights in shares (FSDP2); take"
        " bf16, which is put in shares, or int8 or fp8_torchao, which every process holds"
    ]


def not_in_bfloat16(base_precision: str | None, precision: str | None, flag: str) -> list[str]:
    """A line where a run is asked to compute otherwise than weights in this precision do; ``flag``
    asks for it."""
    if not base_precision or precision in (None, "bf16"):
        return []
    return [f"--base_precision {base_precision} computes in bf16; leave out {flag}"]
