"""Short runs of train_diffusion_dpo, and what they leave."""

import time
from pathlib import Path

from safetensors.torch import load_file

from diffdpo.cli import run_command
from tests.runs import metrics as metrics
from tests.runs import words_of


def flags(model, data, out, **changes):
    defaults = {
        "pretrained_model_name_or_path": model,
        "dataset_name": data,
        "output_dir": out,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "rank": 4,
    }
    return words_of(defaults | changes)


def train(*words):
    """In this process, through the function that the script calls."""
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 0


def weights(out):
    return load_file(Path(out) / "pytorch_lora_weights.safetensors")


def same(a, b):
    return set(a) == set(b) and all(bool((a[name] == b[name]).all()) for name in a)


def wait_for_lines(process, out, count):
    """Until the run has written so many metrics, or has ended."""
    while process.poll() is None:
        path = Path(out) / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.01)
