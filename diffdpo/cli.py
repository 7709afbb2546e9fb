"""``diffdpo COMMAND …``: runs a command by its name, prints user errors, returns exit codes."""

from __future__ import annotations

import atexit
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings, TrainSettings, parse
from diffdpo.engine.console import (
    complain,
    fail,
    quiet_libraries,
    quiet_libraries_to_come,
    say,
)
from diffdpo.errors import UserError
from diffdpo.flags import nearest


@dataclass(frozen=True)
class Command:
    """A row of the table of commands: its purpose, the location of its settings, an example.

    ``settings`` is "module:Class", or "module:function" where a function picks the class by the
    flags that are given. ``main(settings)`` of ``diffdpo.commands.NAME`` carries the command out.
    """

    purpose: str
    settings: str
    example: str


COMMANDS = {
    "demo": Command(
        "train on the bundled image pairs and judge the result",
        "diffdpo.commands.settings:DemoSettings",
        "",
    ),
    "demo_text": Command(
        "the same for the bundled language model and its reviews",
        "diffdpo.commands.settings:DemoTextSettings",
        "",
    ),
    "train_diffusion_dpo": Command(
        "image preference training",
        "diffdpo.image.settings:ImageSettings",
        "--pretrained_model_name_or_path MODEL --dataset_name PAIRS --rank 8",
    ),
    "train_text_dpo": Command(
        "text preference training",
        "diffdpo.text.settings:TextSettings",
        "--model_name_or_path MODEL --dataset_name PAIRS --use_peft",
    ),
    "precompute": Command(
        "latents, embeddings and reference scores to disk, for all runs to come",
        "diffdpo.commands.settings:precompute_settings",
        "--pretrained_model_name_or_path MODEL --dataset_name PAIRS --reference_draws 16",
    ),
    "evaluate": Command(
        "policy against reference: win rate, pictures, report",
        "diffdpo.image.evaluate_settings:EvaluateSettings",
        "--policy runs/train",
    ),
    "evaluate_text": Command(
        "language model against its reference: reward, KL, report",
        "diffdpo.text.evaluate_settings:EvaluateTextSettings",
        "--policy runs/train",
    ),
    "make_pairs": Command(
        "sample two pictures a prompt and let a reward choose",
        "diffdpo.image.evaluate_settings:PairSettings",
        "--reward colourfulness --output_dir runs/pairs",
    ),
    "fit_bradley_terry": Command(
        "strengths and ranks from comparisons",
        "diffdpo.ranking.settings:RankingSettings",
        "--comparisons games.csv --output ranking.json --plot ranking.png",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    # Hyphens as well as underscores: both spellings are in use for commands and for flags.
    name = words[0].replace("-", "_") if words else ""
    if name in COMMANDS:
        return run_command(name, words[1:])
    asked_for_help = bool(words) and words[0] in ("-h", "--help")
    if words and not asked_for_help:
        fail(UserError(f"unknown command {words[0]}{nearest(name, COMMANDS)}"))
    print("usage: diffdpo COMMAND [flags]; COMMAND --help lists them\n", file=sys.stderr)
    for command, row in COMMANDS.items():
        print(f"  {command:<22} {row.purpose}", file=sys.stderr)
    return 0 if asked_for_help else 2


def run_command(name: str, argv: list[str]) -> int:
    """Run the command ``name``; returns its exit code."""
    return run(COMMANDS[name], f"diffdpo.commands.{name}", f"diffdpo {name}", argv)


def run(command: Command, module: str, program: str, argv: list[str]) -> int:
    """Read a command's settings, import its module and run it; returns the exit code.

    A UserError is printed as a line for each mistake.
    """
    settings: BaseSettings | None = None
    quiet_libraries_to_come()
    try:
        cls = settings_class(command.settings, argv)
        settings, notices = parse(cls, argv, program, about(command, program))
        # Only now: the modules of the commands load libraries for seconds, and a mistyped flag is
        # to be answered at once.
        implementation = importlib.import_module(module)
        quiet_libraries()
        say(*notices)
        return implementation.main(settings)
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        # At exit, because a thread may still be writing a checkpoint: Python waits for it first,
        # and the message then names the checkpoint that is really there.
        atexit.register(tell_interrupted, settings)
        return 130


def tell_interrupted(settings: BaseSettings | None) -> None:
    """Say which checkpoint an interrupted run leaves.

    This is for a run ended by a second Ctrl-C, or by one before its first step; the first Ctrl-C
    during training saves a checkpoint and ends the run in order.
    """
    # Not imported here: where training never began, nothing has loaded it.
    checkpoint = sys.modules.get("diffdpo.engine.checkpoint")
    if not isinstance(settings, TrainSettings):
        return complain("interrupted")
    if checkpoint is None:
        return complain("interrupted before training began; nothing to save")
    checkpoints = checkpoint.list_checkpoints(Path(settings.output_dir))
    if not checkpoints:
        return complain("interrupted; no checkpoint was saved")
    return complain(
        f"interrupted; {checkpoints[-1]} is whole, go on with --resume_from_checkpoint latest"
    )


def settings_class(location: str, words: list[str]) -> type[BaseSettings]:
    """The class at ``module:name``, or the one that the function there picks by the words given."""
    module, name = location.split(":")
    target = getattr(importlib.import_module(module), name)
    return target if isinstance(target, type) else target(words)


def about(command: Command, program: str) -> str:
    """The text at the top of a command's --help."""
    return f"{command.purpose}\n\nexample:\n  {program} {command.example}".rstrip()
