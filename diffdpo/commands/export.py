"""Writes a checkpoint out as a finished run would leave its result, also while its run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffdpo.commands.settings import ExportSettings
from diffdpo.engine import checkpoint, checkpoint_state, trained_on
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file
from diffdpo.engine.journal import Journal
from diffdpo.engine.run_config import IN_MEMORY
from diffdpo.engine.run_folder import save_yaml, writable
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError, short
from diffdpo.image.backbones import load_backbone
from diffdpo.image.model.export import export as export_images
from diffdpo.image.model.policy import settings_of_run, untrained
from diffdpo.text.model.checkpoints import load_checkpoint
from diffdpo.text.model.export import export as export_text

MODELS = ("pretrained_model_name_or_path", "model_name_or_path")


def main(settings: ExportSettings) -> int:
    """Load the checkpoint into its model and write the result; returns the exit code."""
    path, out = settings.checkpoint, settings.output
    state = checkpoint.read_state(path)
    checkpoint_state.check_files(path, state)
    if IN_MEMORY in [state["settings"].get(name) for name in MODELS]:
        raise UserError(f"{path}: its run was made from a model in memory, which no folder holds")
    open_empty(out)
    last = record_of(Path(str(settings.run)), state["step"])
    if "model_name_or_path" in state["settings"]:
        result = write_text(path, settings.trust_remote_code, out, last)
    else:
        result = write_images(path, state, out, last)
    say(f"result       {result}")
    record = Path(str(settings.run)) / trained_on.FILE
    if record.is_file():  # a run writes it at its end
        with atomic_file(out / trained_on.FILE) as draft:
            shutil.copyfile(record, draft)
    return 0


def open_empty(folder: Path) -> None:
    """Make the folder. Raises UserError where it cannot be written, or holds something."""
    if held := sorted(path.name for path in writable(str(folder)).iterdir()):
        raise UserError(
            f"--output_dir {folder}: holds {short(', '.join(held))}; choose another, or move that"
            " away"
        )


def record_of(run: Path, step: int) -> Mapping[str, Any]:
    """The record of a step; its number alone where the run has not written it yet."""
    found = (record for record in Journal(run / "metrics.jsonl").read() if record["step"] == step)
    return next(found, {"step": step})


def write_images(path: Path, state: dict[str, Any], out: Path, last: Mapping[str, Any]) -> Path:
    """Write the result of image training; returns the path to load."""
    settings = replace(settings_of_run(path, state), output_dir=str(out))
    name = str(settings.pretrained_model_name_or_path)
    # What kind of model it is was checked when the run began.
    backbone = load_backbone(name, encoders=False, is_turbo=True, **settings.hub_options)
    network = untrained(backbone, settings)
    checkpoint.load_result(path, network, state)
    return with_settings(export_images(backbone, network, settings, last), settings)


def write_text(path: Path, trust: bool, out: Path, last: Mapping[str, Any]) -> Path:
    """Write the result of text training; returns the path to load."""
    scorer, tokenizer, recorded = load_checkpoint(path, trust)
    settings = replace(recorded, output_dir=str(out))
    return with_settings(export_text(scorer.network, tokenizer, settings, last), settings)


def with_settings(result: Path, settings: TrainSettings) -> Path:
    """The same path, once the settings lie beside the result, where evaluations look for them."""
    save_yaml(settings, Path(settings.output_dir) / "config.yaml")
    return result
