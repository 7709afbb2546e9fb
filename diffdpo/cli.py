"""``diffdpo COMMAND …``: runs a command by its name, prints user errors, returns exit codes."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from dataclasses import dataclass

from diffdpo.config import BaseSettings, parse
from diffdpo.engine.console import (
    complain,
    fail,
    quiet_libraries,
    quiet_libraries_to_come,
    rank,
    say,
)
from diffdpo.engine.failures import in_one_line, is_lost_peer, peer_line
from diffdpo.engine.interrupts import INTERRUPTED, answering, farewell, moment
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import SharedError, UserError, nearest


@dataclass(frozen=True)
class Command:
    """A row of the table of commands: its purpose, the location of its settings, an example.

    ``settings`` is "module:Class", or "module:function" where a function picks the class by the
    flags that are given. ``main(settings)`` of ``diffdpo.commands.NAME`` carries the command out,
    or that of the ``module`` named in place of NAME. ``interrupted`` is said when Ctrl-C ends it
    before any training.
    """

    purpose: str
    settings: str
    example: str
    interrupted: str = "interrupted"
    shares_work: bool = False  # among all processes that a launcher starts
    module: str = ""


UNTRAINED = "interrupted before training began; nothing to save"


COMMANDS = {
    "demo": Command(
        "train on the bundled image pairs and judge the result",
        "diffdpo.commands.settings:DemoSettings",
        "",
        UNTRAINED,
        shares_work=True,
    ),
    "demo_flow": Command(
        "the same for the bundled flow model",
        "diffdpo.commands.settings:DemoFlowSettings",
        "",
        UNTRAINED,
        shares_work=True,
        module="demo",
    ),
    "demo_rounds": Command(
        "two rounds with the bundled model beside one long training and the best of four",
        "diffdpo.commands.rounds_settings:DemoRoundsSettings",
        "",
        "interrupted; what is finished is kept, and the same command goes on",
        shares_work=True,
    ),
    "demo_text": Command(
        "the same for the bundled language model and its reviews",
        "diffdpo.commands.settings:DemoTextSettings",
        "",
        UNTRAINED,
        shares_work=True,
    ),
    "train_diffusion_dpo": Command(
        "image preference training",
        "diffdpo.image.settings:ImageSettings",
        "--pretrained_model_name_or_path MODEL --dataset_name PAIRS --rank 8",
        UNTRAINED,
        shares_work=True,
    ),
    "train_text_dpo": Command(
        "text preference training",
        "diffdpo.text.settings:TextSettings",
        "--model_name_or_path MODEL --dataset_name PAIRS --use_peft",
        UNTRAINED,
        shares_work=True,
    ),
    "precompute": Command(
        "latents, embeddings and reference scores to disk, for all runs to come",
        "diffdpo.commands.settings:precompute_settings",
        "--pretrained_model_name_or_path MODEL --dataset_name PAIRS --reference_draws 16",
        "interrupted; what is stored whole is kept, and the same command goes on",
        shares_work=True,
    ),
    "export": Command(
        "a checkpoint as a finished run would leave it, also while its run goes on",
        "diffdpo.commands.settings:ExportSettings",
        "runs/train --step 500",
    ),
    "evaluate": Command(
        "policies against their reference and each other: win rates, pictures, report",
        "diffdpo.image.evaluate_settings:EvaluateSettings",
        "--policy runs/train",
        "interrupted; the pictures so far are kept, and the same command goes on",
        shares_work=True,
    ),
    "compare": Command(
        "several runs on one page: curves, settings that differ, figures, pictures",
        "diffdpo.commands.compare_settings:CompareSettings",
        "runs/first runs/second",
    ),
    "evaluate_text": Command(
        "language models against their reference and each other: reward, KL, report",
        "diffdpo.text.evaluate_settings:EvaluateTextSettings",
        "--policy runs/train",
    ),
    "make_pairs": Command(
        "from prompts to pairs: sample candidates, let rewards choose",
        "diffdpo.commands.settings:pair_settings",
        "--prompts prompts.txt --policy runs/train --reward colourfulness --output_dir runs/pairs",
        "interrupted; what is stored whole is kept, and the same command goes on",
        shares_work=True,
    ),
    "rounds": Command(
        "pairs by the policy so far, training on them, judging; and again",
        "diffdpo.commands.rounds_settings:RoundsSettings",
        "--config rounds.yaml",
        "interrupted; what is finished is kept, and the same command goes on",
        shares_work=True,
    ),
    "score": Command(
        "let rewards judge pictures, pairs or texts, and say how far labels agree",
        "diffdpo.commands.score_settings:ScoreSettings",
        "--dataset_name PAIRS --reward pickscore hpsv2.1 --output_dir runs/score",
        "interrupted; what is stored whole is kept, and the same command goes on",
        shares_work=True,
    ),
    "convert_reward": Command(
        "the official file of a reward's weights as the folder that is read here",
        "diffdpo.metrics.convert_settings:ConvertSettings",
        "hpsv2.1 HPS_v2.1_compressed.pt weights/hpsv2.1",
    ),
    "annotate": Command(
        "a page on which people choose between two pictures, texts or clips",
        "diffdpo.annotate.settings:AnnotateSettings",
        "PAIRS --output_dir runs/votes",
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
    if name in ("__version", "version"):
        print(f"diffdpo {importlib.import_module('diffdpo').__version__}")
        return 0
    asked_for_help = name in ("_h", "__help", "help")
    if words and not asked_for_help:
        fail(UserError(f"unknown command {words[0]}{nearest(name, COMMANDS)}"))
    # Help that was asked for can be piped on, as that of each command.
    place = sys.stdout if asked_for_help else sys.stderr
    print("usage: diffdpo COMMAND [flags]; COMMAND --help lists them\n", file=place)
    for command, row in COMMANDS.items():
        print(f"  {command:<22} {row.purpose}", file=place)
    return 0 if asked_for_help else 2


def run_command(name: str, argv: list[str]) -> int:
    """Run the command ``name``; returns its exit code."""
    command = COMMANDS[name]
    return run(command, f"diffdpo.commands.{command.module or name}", f"diffdpo {name}", argv)


def run(command: Command, module: str, program: str, argv: list[str]) -> int:
    """Read a command's settings, import its module and run it; returns the exit code.

    A UserError is printed as a line for each mistake, and so is a failure that is no bug.
    """
    settings: BaseSettings | None = None
    again = "the same command"
    quiet_libraries_to_come()
    try:
        with answering(command.interrupted, again):
            cls = settings_class(command.settings, argv)
            if issubclass(cls, TrainSettings):
                again = "--resume_from_checkpoint latest"
            settings, notices = parse(cls, argv, program, about(command, program))
            if not command.shares_work and alone_at_work():
                return 0
            # Only now: the modules of the commands load libraries for seconds, and a mistyped flag
            # is to be answered at once.
            implementation = importlib.import_module(module)
            quiet_libraries()
            say(*notices)
            return implementation.main(settings)
    except KeyboardInterrupt:
        # At exit, because a thread may still be writing a checkpoint: Python waits for it first,
        # and the message then names the checkpoint that is really there.
        atexit.register(lambda: complain(farewell(command.interrupted, again)))
        return INTERRUPTED
    except Exception as error:
        return told(error, settings)


def told(error: Exception, settings: BaseSettings | None) -> int:
    """Print what a failure means to the user; returns the exit code. Raises a bug's error again."""
    if is_lost_peer(error):
        print(peer_line(), file=sys.stderr, flush=True)
        return 1
    line = error if isinstance(error, UserError) else in_one_line(error, settings)
    if line is None:
        raise error
    # While a run trains, a mistake is met by one process alone, unless it says otherwise.
    trains = moment.checkpoints is not None
    return fail(line, own=trains and not isinstance(line, SharedError))


def alone_at_work() -> bool:
    """Whether another process does the work of a command that cannot share it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        say("note         this command works in one process; the others have nothing to do")
    return rank() > 0


def settings_class(location: str, words: list[str]) -> type[BaseSettings]:
    """The class at ``module:name``, or the one that the function there picks by the words given."""
    module, name = location.split(":")
    target = getattr(importlib.import_module(module), name)
    return target if isinstance(target, type) else target(words)


def about(command: Command, program: str) -> str:
    """The text at the top of a command's --help."""
    return f"{command.purpose}\n\nexample:\n  {program} {command.example}".rstrip()
