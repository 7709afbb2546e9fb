"""The file of a LoRA as diffusers names it, and why images cannot be trained on from one."""

from __future__ import annotations

from pathlib import Path

LORA_FILE = "pytorch_lora_weights.safetensors"
FUSE = (
    "images cannot be trained on from a LoRA; fuse it into its model first:"
    " pipeline.load_lora_weights(LORA); pipeline.fuse_lora(); pipeline.unload_lora_weights();"
    " pipeline.save_pretrained(FOLDER)"
)


def holds_lora(folder: str | None) -> bool:
    """Whether a folder is the result of LoRA training."""
    return folder is not None and (Path(folder) / LORA_FILE).is_file()
