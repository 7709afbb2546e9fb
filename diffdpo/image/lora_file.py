"""Files where a model's folder is needed: what a LoRA is called, and what to do with one."""

from __future__ import annotations

from pathlib import Path

LORA_FILE = "pytorch_lora_weights.safetensors"
FUSE = (
    "images cannot be trained on from a LoRA; fuse it into its model first:"
    " pipeline.load_lora_weights(LORA); pipeline.fuse_lora(); pipeline.unload_lora_weights();"
    " pipeline.save_pretrained(FOLDER)"
)


def is_file(name: str | None) -> bool:
    """Whether a model's name is that of a file."""
    return name is not None and Path(name).is_file()


def holds_lora(folder: str | None) -> bool:
    """Whether a folder is the result of LoRA training."""
    return folder is not None and (Path(folder) / LORA_FILE).is_file()
