"""What every training run does round the engine: its folder, its tracker, its words to the user, its upload."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration
from safetensors import SafetensorError

from diffdpo import checkpoint
from diffdpo.config import TrainSettings, as_dict, save_yaml
from diffdpo.errors import UserError
from diffdpo.machine import tune_cpu

TRACES = ("metrics.jsonl", "config.yaml", "model_index.json", "pytorch_lora_weights.safetensors")
LET_GO = 0.2  # seconds
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "comet_ml": "comet_ml"}


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """The accelerate set-up of a run: CPU, one GPU, or several by DistributedDataParallel.

    Raises UserError for ways of sharding that a reference beside the policy does not survive here.
    """
    precision = settings.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available()) or on_cpu_by_request()
    if precision == "fp16" and cpu:
        say("--mixed_precision fp16: needs a GPU; this run on the CPU uses float32")
        precision = "no"
    settings.mixed_precision = precision
    if cpu:
        tune_cpu()
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    folder = Path(settings.output_dir)
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / settings.logging_dir))
    log_with = tracker(settings.report_to)
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, log_with=log_with, project_config=project)
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        kind = accelerator.distributed_type.value
        raise UserError(
            f"accelerate is set to {kind}; diffdpo runs on one device or several by DDP (accelerate config)"
        )
    return accelerator


def quiet_libraries() -> None:
    """Only our own progress bars: those of the libraries flash by for every file they read or write."""
    import datasets
    import diffusers
    import transformers

    datasets.disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def on_cpu_by_request() -> bool:
    """Whether the launcher was told to use the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def tracker(name: str) -> str | None:
    """The tracker to log to; says so where its package is not installed. metrics.jsonl is written in any case."""
    if name in ("none", "all"):
        return None if name == "none" else "all"
    if importlib.util.find_spec(TRACKERS[name]) is None:
        say(f"--report_to {name}: {TRACKERS[name]} is not installed; metrics go to metrics.jsonl alone")
        return None
    return name


def say(*lines: str) -> None:
    """Lines to the user, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, flush=True)


def writable(name: str) -> Path:
    """The output folder, made where it is missing. Raises UserError where it cannot be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be written ({error.strerror})") from error


def open_folder(settings: TrainSettings, accelerator: Accelerator) -> None:
    """Make the output folder.

    Raises UserError where it cannot be written, or holds another run and resuming was not asked for.
    """
    # Every process looks for itself, so that all of them stop; none goes on before all have looked.
    folder = writable(settings.output_dir)
    found = [name for name in TRACES if (folder / name).exists()] + checkpoint.list_checkpoints(folder)
    if found and not settings.resume_from_checkpoint:
        ways = "continue it with --resume_from_checkpoint latest, or choose another --output_dir"
        raise UserError(f"--output_dir {folder}: holds another run; {ways}")
    accelerator.wait_for_everyone()


def begin(settings: TrainSettings, notices: list[str]) -> Accelerator:
    """Repeat the parser's notices, set accelerate up and open the run's folder."""
    say(*notices)
    accelerator = make_accelerator(settings)
    open_folder(settings, accelerator)
    return accelerator


def conclude(
    settings: TrainSettings, accelerator: Accelerator, done: int, total: int, write: Callable[[], object]
) -> None:
    """Let the first process ``write`` a finished run's result, and upload it; say how to go on with a stopped one.

    Raises UserError where the disk does not take the result; the last checkpoint holds the same weights.
    """
    if done < total:
        say(f"stopped      after step {done} of {total}; go on with --resume_from_checkpoint latest")
    elif accelerator.is_main_process:
        try:
            say(f"result       {write()}")
        except (OSError, SafetensorError) as error:
            where = settings.output_dir
            raise UserError(f"{where}: the result could not be written ({error}); make room and resume") from error
        if settings.push_to_hub:
            push_to_hub(settings)
    end(accelerator)


def end(accelerator: Accelerator) -> None:
    """Leave together."""
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        # PyTorch's gloo group waits, with Python's lock in hand, for a thread of its own that wants this lock to let go
        # of the last barrier's tensors: give it the lock first, or some runs never end.
        time.sleep(LET_GO)
    accelerator.end_training()


def start_records(settings: TrainSettings, accelerator: Accelerator) -> None:
    """Write config.yaml and open the tracker."""
    if accelerator.is_main_process:
        save_yaml(settings, Path(settings.output_dir) / "config.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in as_dict(settings).items()}
        accelerator.init_trackers(settings.tracker_name, config=plain)


def start_lines(facts: dict[str, str]) -> None:
    """What will happen, a line a fact."""
    say(*(f"{name:<12} {fact}" for name, fact in facts.items()))


def push_to_hub(settings: TrainSettings) -> None:
    """Upload the result. Raises UserError where that fails; the result itself lies in output_dir."""
    from huggingface_hub import HfApi, constants

    folder = Path(settings.output_dir)
    name = settings.hub_model_id or folder.name
    if constants.HF_HUB_OFFLINE:
        say(f"--push_to_hub: HF_HUB_OFFLINE is set; {folder} stays here")
        return
    try:
        api = HfApi(token=settings.hub_token)
        repository = api.create_repo(name, exist_ok=True).repo_id
        skip = ["checkpoint-*", f"{settings.logging_dir}/*", ".*"]
        api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=skip)
    except Exception as error:  # network, token and repository errors share no type
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--push_to_hub: upload to {name} failed ({reason}); the result is in {folder}") from error


def fail(error: UserError) -> int:
    """A line per mistake on stderr, from the first process only; the exit code."""
    if os.environ.get("RANK", "0") == "0":
        for mistake in error.mistakes:
            print(f"error: {mistake}", file=sys.stderr, flush=True)
    return 2
