"""The network of a checkpoint of text training, as its run would export it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diffdpo.config import as_recorded
from diffdpo.engine import checkpoint, checkpoint_state
from diffdpo.engine.run_config import IN_MEMORY
from diffdpo.errors import UserError
from diffdpo.text.model.loading import load_model, load_tokenizer
from diffdpo.text.model.network import make_trainable
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.settings import TextSettings


def load_checkpoint(
    path: Path, trust_remote_code: bool
) -> tuple[TokenScorer, PreTrainedTokenizerBase, TextSettings]:
    """Scorer, in float32, and tokenizer of the checkpoint in the folder ``path``, with its run's
    settings.

    Whether code that came with the model may run is for the user to say, whatever the run recorded.
    Raises UserError where it is damaged, or none of text training from a model on the disk.
    """
    state = checkpoint.read_state(path)
    checkpoint_state.check_files(path, state)
    content: dict[str, Any] = {**state["settings"], "trust_remote_code": trust_remote_code}
    if content.get("model_name_or_path") in (None, IN_MEMORY):
        raise UserError(f"{path}: not a checkpoint of text training from a model on the disk")
    recorded = as_recorded(TextSettings, str(path / checkpoint_state.FILE), content)
    settings = replace(recorded, gradient_checkpointing=False)
    network = load_model(str(settings.model_name_or_path), "model_name_or_path", settings)
    tokenizer = load_tokenizer(network, settings)
    full = replace(
        settings,
        mixed_precision="no",
        base_precision=None,
        load_in_4bit=False,
        load_in_8bit=False,
    )
    scorer = make_trainable(network, full, torch.device("cpu"))
    checkpoint.load_result(path, scorer, state)
    return scorer, tokenizer, settings
