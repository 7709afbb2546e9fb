"""What recipes of LLaMA-Factory say of adapters, as settings of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffdpo.errors import short
from diffdpo.words import is_off

OF_PISSA = {"pissa_init", "pissa_iter", "pissa_convert"}
PISSA_ITERATIONS = 16  # its default
# Adapters there, and by what names the model beneath is given: here the adapter has the first.
ADAPTERS = {
    "adapter_name_or_path": ["model_name_or_path"],
    "ref_model_adapters": ["ref_model_name_or_path", "ref_model"],
}


def names_in(value: Any) -> list[str]:
    """Names in a list, or with commas between them."""
    names = value if isinstance(value, list) else str(value).split(",")
    return [str(name).strip() for name in names]


def read_pissa(given: Mapping[str, Any]) -> dict[str, Any]:
    """The three settings of PiSSA, which are one here. What ``pissa_convert`` asks for, a LoRA on
    the model as it was, is always written."""
    if is_off(given.get("pissa_init")):
        return {}
    count = given.get("pissa_iter", PISSA_ITERATIONS)
    return {"init_lora_weights": "pissa" if str(count) == "-1" else f"pissa_niter_{count}"}


def not_its_base(name: str, adapter: str, base: Any) -> str | None:
    """A line where an adapter does not say itself that ``base`` is the model beneath it."""
    if "," in adapter:
        return f"{name} {short(adapter)}: name one; merge the others into the model first"
    if base is None:
        return None
    file = Path(adapter) / "adapter_config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return f"{name} {short(adapter)}: {short(file)} is not there, or no JSON"
    if str(named) == str(base):
        return None
    return (
        f"{name} {short(adapter)}: its adapter_config.json names the model {short(str(named))}, and"
        f" the settings {short(str(base))}; make them the same"
    )
