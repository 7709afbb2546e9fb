"""The folder of a run: opens it, records the settings, adds the result and uploads it."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from diffdpo.config import BaseSettings, as_dict
from diffdpo.engine import lock
from diffdpo.engine.accelerator import make_accelerator
from diffdpo.engine.console import say
from diffdpo.engine.files import tidy, write_atomically
from diffdpo.engine.folder_check import check_content, check_path, check_place
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.waiting import patient_group
from diffdpo.errors import UserError, short

RELEASE_SECONDS = 0.2


def begin(settings: TrainSettings) -> Accelerator:
    """Set accelerate up and open the run's folder."""
    accelerator = make_accelerator(settings)
    open_folder(settings, accelerator)
    return accelerator


def writable(name: str) -> Path:
    """The output folder, made if needed. Raises UserError where it cannot be written."""
    folder = check_path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried out, because permission bits do not tell of a read-only file system.
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be written ({error.strerror})") from error


def open_folder(settings: TrainSettings, accelerator: Accelerator) -> None:
    """Make the output folder, and lock it for this run.

    Raises UserError where it cannot be written, lies in the model or the data, is in use, or holds
    what this run would spoil.
    """
    check_place(settings)
    folder = writable(settings.output_dir)
    mistakes: list[tuple[str, ...]] = [()]
    # The first process alone looks inside, because it may tidy up; the others hear what it found.
    if accelerator.is_main_process:
        try:
            lock.take(folder)
            tidy(folder, alone=True)
            check_content(settings, folder)
        except UserError as error:
            lock.release()
            mistakes = [error.mistakes]
    if accelerator.num_processes > 1:
        broadcast_object_list(mistakes)
    if mistakes[0]:
        raise UserError(*mistakes[0])


def start_records(settings: TrainSettings, accelerator: Accelerator) -> None:
    """Write config.yaml and open the tracker."""
    if accelerator.is_main_process:
        save_yaml(settings, Path(settings.output_dir) / "config.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = {  # the values that trackers take
            k: v if isinstance(v, (int, float, str, bool)) else str(v)
            for k, v in as_dict(settings).items()
        }
        accelerator.init_trackers(settings.tracker_name, config=plain)


def conclude(
    settings: TrainSettings,
    accelerator: Accelerator,
    stopped: int | None,
    total: int,
    write: Callable[[], object],
) -> None:
    """Write and upload the result of a finished run; say how to go on with one that was stopped
    after the step ``stopped``.

    All processes return when the result is on the disk, but for the first one, which uploads it.

    Raises UserError where the disk does not take the result. Nothing is lost then: the last
    checkpoint holds the same weights.
    """
    group = patient_group()  # by all, before one of them goes to write
    if stopped is not None:
        go_on = "go on with --resume_from_checkpoint latest"
        say(f"stopped      after step {stopped} of {total}; {go_on}")
    elif accelerator.is_main_process:
        try:
            say(f"result       {write()}")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{settings.output_dir}: the result could not be written ({error});"
                " make room and resume"
            ) from error
    is_to_upload = settings.push_to_hub and stopped is None and accelerator.is_main_process
    part(accelerator, group)
    if is_to_upload:
        push_to_hub(settings)
    lock.release()


def end(accelerator: Accelerator) -> None:
    """Wait for all processes, then end trackers and process group, and give the folder back."""
    part(accelerator, patient_group())
    lock.release()


def part(accelerator: Accelerator, group: torch.distributed.ProcessGroup | None) -> None:
    """Wait for all processes of a ``patient_group``, then end trackers and process group."""
    if group is not None:
        torch.distributed.barrier(group)
        # Destroying PyTorch's gloo group waits, holding Python's lock, for one of its threads,
        # which may need that lock to release the tensors of the last barrier. Sleeping gives it the
        # lock; without this, some runs never end.
        time.sleep(RELEASE_SECONDS)
    accelerator.end_training()


def push_to_hub(settings: TrainSettings) -> None:
    """Upload the result. Raises UserError where that fails; the result stays in output_dir."""
    from huggingface_hub import HfApi, constants

    folder = Path(settings.output_dir)
    name = settings.hub_model_id or folder.name
    if constants.HF_HUB_OFFLINE:
        say(f"--push_to_hub: HF_HUB_OFFLINE is set; {folder} stays here")
        return
    try:
        api = HfApi(token=settings.hub_token)
        repository = api.create_repo(
            name, private=settings.hub_private_repo or None, exist_ok=True
        ).repo_id
        skip = ["checkpoint-*", "export-*", f"{settings.logging_dir}/*", ".*"]
        branch = settings.hub_revision
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=skip, revision=branch
        )
    except Exception as error:  # network, token and repository errors share no type
        reason = short(error, 200)
        raise UserError(
            f"--push_to_hub: upload to {name} failed ({reason}); the result is in {folder}"
        ) from error


def save_yaml(settings: BaseSettings, path: Path) -> None:
    """Write every setting; the file works as ``--config``."""
    write_atomically(path, yaml.safe_dump(as_dict(settings), sort_keys=False))
