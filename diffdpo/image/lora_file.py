"""What LoRA files are called, in which forms they are written, and what to do with one where a
model's folder is needed."""

from __future__ import annotations

from pathlib import Path

LORA_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "pytorch_lora_weights_kohya.safetensors"
FORMATS = ["both", "diffusers", "kohya"]
PRECISIONS = ["fp32", "bf16", "fp16"]
FUSE = (
    "a LoRA is no model; name its model and train on with --init_lora, or fuse it into its model"
    " first: pipeline.load_lora_weights(LORA); pipeline.fuse_lora();"
    " pipeline.unload_lora_weights(); pipeline.save_pretrained(FOLDER)"
)


def is_file(name: str | None) -> bool:
    """Whether a model's name is that of a file."""
    return name is not None and Path(name).is_file()


def lora_in(folder: Path) -> str | None:
    """The name of the LoRA file in a folder, in the form of diffusers before that of kohya."""
    return next((name for name in (LORA_FILE, KOHYA_FILE) if (folder / name).is_file()), None)


def lora_path(name: str) -> Path:
    """The LoRA file that a folder holds, or the file itself."""
    path = Path(name)
    return path / (lora_in(path) or LORA_FILE) if path.is_dir() else path


def holds_lora(folder: str | None) -> bool:
    """Whether a folder is the result of LoRA training."""
    return folder is not None and lora_in(Path(folder)) is not None
