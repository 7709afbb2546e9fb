"""The commands as functions, for a notebook or another program.

Settings are the flags of the commands, checked in the same way. Objects in memory may be given in
place of names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from diffusers import DiffusionPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from diffdpo.commands import evaluate as evaluate_images
from diffdpo.commands import evaluate_text, train_diffusion_dpo, train_text_dpo
from diffdpo.commands.train_diffusion_dpo import ImageObjects
from diffdpo.commands.train_text_dpo import TextObjects
from diffdpo.config import settings_of
from diffdpo.engine.accelerator import own_state
from diffdpo.engine.callbacks import Callback, Callbacks, StepCallback
from diffdpo.engine.run import TrainingResult
from diffdpo.engine.run_config import IN_MEMORY, recorded_by
from diffdpo.engine.run_folder import begin
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.reading.inputs import InMemory
from diffdpo.text.settings import TextSettings


def train_images(
    *,
    dataset: Dataset | None = None,
    pipeline: DiffusionPipeline | None = None,
    on_step: StepCallback | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> TrainingResult:
    """Train on image pairs by Diffusion-DPO (Wallace et al. 2023) or a related loss.

    ``settings`` are the flags of ``train_diffusion_dpo``; without any, the bundled run is made.
    ``dataset`` replaces ``dataset_name``, and ``pipeline`` replaces
    ``pretrained_model_name_or_path``; its UNet is trained in place. ``on_step`` gets the record of
    every step; records come ``logging_steps`` at a time. ``callbacks`` hear of what is logged,
    measured and saved, and may end the run.

    Raises UserError with a line for every mistake.
    """
    names = {"dataset_name": dataset, "pretrained_model_name_or_path": pipeline}
    checked = settings_of(ImageSettings, **in_memory(names), **settings)
    objects, heard = ImageObjects(dataset, pipeline), Callbacks(callbacks, on_step)
    with own_state():
        return train_diffusion_dpo.train(checked, begin(checked), objects, heard)


def train_text(
    *,
    dataset: Dataset | None = None,
    eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | ProcessorMixin | None = None,
    on_step: StepCallback | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> TrainingResult:
    """Train on text preferences by DPO (Rafailov et al. 2023), KTO, ORPO or a related loss.

    ``settings`` are the flags of ``train_text_dpo``; without any, the bundled run is made.
    ``dataset`` and ``eval_dataset`` replace ``dataset_name`` and ``eval_dataset_name``; several
    held-out sets have a name each. ``model`` replaces ``model_name_or_path`` and is trained in
    place; ``tokenizer`` replaces the model's own; an image–text model has a processor in its place.
    ``on_step`` and ``callbacks`` are as for ``train_images``.

    Raises UserError with a line for every mistake.
    """
    held_out = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    given = {name: rows for name, rows in held_out.items() if rows is not None}
    values = in_memory({"dataset_name": dataset}) | settings
    if given:
        values["eval_dataset_name"] = [f"{n}={IN_MEMORY}" if n else IN_MEMORY for n in given]
    if model is not None:
        values.setdefault("model_name_or_path", model.name_or_path or IN_MEMORY)
    checked = settings_of(TextSettings, **values)
    objects = TextObjects(InMemory(dataset, given), model, tokenizer)
    heard = Callbacks(callbacks, on_step)
    with own_state():
        return train_text_dpo.train(checked, begin(checked), objects, heard)


def evaluate(policy: str | Path | Sequence[str | Path], **settings: Any) -> dict[str, Any]:
    """Compare policy and reference; returns the content of evaluation.json.

    ``policy`` is the folder of a finished run or a checkpoint, or several of them. The config.yaml
    of the first one's run decides between the commands ``evaluate`` and ``evaluate_text``, whose
    flags ``settings`` are.

    Raises UserError with a line for every mistake.
    """
    policies = list(map(str, [policy] if isinstance(policy, (str, Path)) else policy))
    if policies and "model_name_or_path" in recorded_by(policies[0]):
        text = settings_of(EvaluateTextSettings, policy=policies, **settings)
        evaluate_text.main(text)
        folder = text.output_dir
    else:
        images = settings_of(EvaluateSettings, policy=policies, **settings)
        evaluate_images.main(images)
        folder = images.output_dir
    content: dict[str, Any] = json.loads((Path(folder) / "evaluation.json").read_text())
    return content


def in_memory(objects: dict[str, Any]) -> dict[str, str]:
    """The settings whose objects are given, each with a name that says so."""
    return {name: IN_MEMORY for name, value in objects.items() if value is not None}
