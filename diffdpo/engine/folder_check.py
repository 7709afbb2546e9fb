"""Checks of the output folder, before anything is written: where it lies, what is in it, and
whether that is a run which may go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from diffdpo.config import as_dict
from diffdpo.engine import checkpoint
from diffdpo.engine.checkpoint_state import (
    check_files,
    check_outline,
    is_in_shares,
    read_state,
)
from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.journal import NO_RECORD, from_line
from diffdpo.engine.run_config import FILE, recorded
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError, short

METRICS = "metrics.jsonl"
# Files of which one shows that a run came to its end.
RESULTS = [
    "model_index.json",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights_kohya.safetensors",
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
]
# The other names that a run gives; README.md is kept, see report/model_card.py.
REPLACED = [FILE, "*config.json", "*.safetensors", "*.safetensors.index.json", "model_index.json"]
REPLACED += ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json"]
REPLACED += ["merges.txt", "chat_template.jinja", "unet", "transformer", "vae"]
REPLACED += ["text_encoder*", "scheduler", "safety_checker", "feature_extractor", "image_encoder"]
# The ends of the names of settings that may hold a local path.
MODELS, DATA = ("name_or_path", "_init", "init_lora"), ("dataset_name", "data_dir")
APART = "choose an --output_dir apart from it"


def check_path(name: str) -> Path:
    """The path of an output folder. Raises UserError where no folder can be at it."""
    path = Path(name)
    if path.is_symlink() and not path.exists():
        raise UserError(f"--output_dir {name}: is a link that leads nowhere; choose a folder")
    if path.exists() and not path.is_dir():
        raise UserError(f"--output_dir {name}: is there and is not a folder; choose another name")
    return path


def check_place(settings: TrainSettings) -> None:
    """Raises UserError where output and inputs lie in each other.

    The result would replace the model, or the next run read its metrics as data.
    """
    out = check_path(settings.output_dir).resolve()
    mistakes = []
    for name, value in named_inputs(settings):
        for path in map(Path, [value, *bases(value)] if name.endswith(MODELS) else [value]):
            if path.is_dir() and (reason := overlap(out, path.resolve(), name.endswith(MODELS))):
                mistakes.append(f"--output_dir {settings.output_dir}: {reason} --{name} {path}")
    if mistakes:
        raise UserError(*(f"{line}; {APART}" for line in mistakes))


def named_inputs(settings: TrainSettings) -> Iterator[tuple[str, str]]:
    """The settings that may hold local paths, with each of these: a list of names has several, of
    which ``NAME=DATA`` is one."""
    for name, value in as_dict(settings).items():
        if name == "datasets":
            yield from ((name, str(entry.get("path"))) for entry in value)
        elif name.endswith(MODELS + DATA):
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    yield from ((name, path) for path in {word, word.rpartition("=")[2]})


def overlap(out: Path, folder: Path, is_model: bool) -> str:
    """How an output folder and a folder that is read lie in each other; '' where they do not."""
    if out == folder:
        return "is the folder of"
    if folder in out.parents:
        return "lies inside the folder of"
    # Data are only read, under names that no run writes.
    return "holds the folder of" if is_model and out in folder.parents else ""


def bases(model: str) -> list[str]:
    """The model that an adapter's folder builds on, if it is one."""
    try:
        config = json.loads((Path(model) / "adapter_config.json").read_text())
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no adapter; a damaged one is the loader's to tell
    return [base] if isinstance(base, str) else []


def check_content(settings: TrainSettings, folder: Path) -> None:
    """Raises UserError where the folder holds what this run would spoil.

    That is another run, unless it is to go on from its checkpoints, and files of the user.
    """
    wanted = settings.resume_from_checkpoint
    if wanted and wanted != "latest":
        check_branch(checkpoint.located(folder, wanted), settings, folder)
    elif wanted and checkpoint.named(folder):
        # Again when the model is loaded; a line about a damaged one is not to wait for that.
        checkpoint.find(folder, wanted, look=glance)
    elif wanted and holds_run(folder):
        check_unfinished(folder)
    else:
        check_free(folder)
    mend_metrics(folder / METRICS)


def glance(path: Path) -> None:
    """Raises UserError where a checkpoint is not whole; of one that many processes wrote, and will
    read together, the content is left to them."""
    state = read_state(path)
    (check_outline if is_in_shares(path) else check_files)(path, state)


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run of this package, or has the result of one."""
    if os.path.lexists(folder / METRICS) or checkpoint.named(folder):
        return True
    if any((folder / name).exists() for name in RESULTS):
        return True
    try:
        settings = recorded(folder)
    except UserError:
        return False
    # Users keep a config.yaml of their own in such folders; a run's holds every setting.
    return {"output_dir", "seed", "checkpointing_steps", "tracker_name"} <= settings.keys()


def check_free(folder: Path) -> None:
    """Raises UserError where a new run would replace something."""
    if holds_run(folder):
        ways = "continue it with --resume_from_checkpoint latest, or choose another --output_dir"
        raise UserError(f"--output_dir {folder}: holds another run; {ways}")
    names = sorted(path.name for path in folder.iterdir())
    if taken := [name for name in names if any(fnmatch(name, form) for form in REPLACED)]:
        raise UserError(
            f"--output_dir {folder}: holds {short(', '.join(taken))}, which the run would"
            " replace; choose another --output_dir, or move that away"
        )


def check_branch(path: Path, settings: TrainSettings, folder: Path) -> None:
    """Raises UserError where the checkpoint of one run would go on in the folder of another."""
    state = checkpoint.read_state(path)
    homes = [path.parent, Path(str(state["settings"].get("output_dir")))]
    if folder.resolve() in [home.resolve() for home in homes]:
        return
    if not holds_run(folder):
        check_free(folder)
    # The same command again, after a kill, is the same run.
    elif recorded(folder).get("resume_from_checkpoint") != settings.resume_from_checkpoint:
        raise UserError(
            f"--output_dir {folder}: holds another run than that of {path}; choose another"
            " --output_dir"
        )


def check_unfinished(folder: Path) -> None:
    """Raises UserError where a run without checkpoints cannot have stopped before its first."""
    results = [name for name in RESULTS if (folder / name).exists()]
    line = f"--output_dir {folder}: holds another run, of which no checkpoint is left"
    if results:
        raise UserError(f"{line} ({results[0]} is there); choose another --output_dir")
    if (folder / METRICS).is_dir():
        return
    # A step that was not taken puts the checkpoint off.
    done = sum(b'"skipped_rows"' not in line for line in read_lines(folder / METRICS))
    every = recorded(folder).get("checkpointing_steps")
    # A checkpoint is written beside training and is whole when the next but one is due.
    if done and not (isinstance(every, int) and done <= 2 * every):
        raise UserError(f"{line} ({METRICS} has {done} steps); choose another --output_dir")


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file; none where there is no file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [line for line in lines if line.endswith(b"\n")]


def mend_metrics(path: Path) -> None:
    """Drop damaged lines at the end of metrics.jsonl, as a power cut leaves them, and say so.

    Raises UserError where whole lines follow a damaged one, or none is whole.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; move it away")
    lines = read_lines(path)
    broken = [number for number, line in enumerate(lines) if not is_record(line)]
    first = broken[0] if broken else len(lines)
    if broken and (first == 0 or broken != list(range(first, len(lines)))):
        raise UserError(
            f"{path}, line {first + 1}: is not the record of a step"
            f" ({short(lines[first].decode(errors='replace'))}); delete that line, or move the file"
            " away, and resume"
        )
    if path.exists():  # also without the half line that every kill may leave
        write_atomically(path, b"".join(lines[:first]).decode())
    if broken:
        say(f"note         {path}: {len(broken)} damaged lines at its end are left out")


def is_record(line: bytes) -> bool:
    """Whether a line of metrics.jsonl is the record of a step."""
    try:
        from_line(line)
    except NO_RECORD:
        return False
    return True
