"""Our trainers beside others: ``python scripts/benchmark --peer-script THEIRS.py``; real shapes on
a card: ``python scripts/benchmark gpu``; the host alone: ``python scripts/benchmark host``; the
output head alone: ``python scripts/benchmark head``; the
way to a better policy: ``python scripts/benchmark race``; the table of losses: ``python
scripts/benchmark losses``."""

import sys
from pathlib import Path

# Python puts this folder on the path. The modules import each other as scripts.benchmark.*, and
# their short names (size, work, report) must not hide anybody else's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

if __name__ == "__main__":
    from diffdpo.cli import Command, run

    COMMANDS = {
        "": Command(
            purpose="times and memory beside other trainers",
            settings="scripts.benchmark.command:BenchmarkSettings",
            example="--peer-script train_diffusion_dpo.py --peer-script train.py",
            module="command",
        ),
        "gpu": Command(
            purpose="models of real shapes on a card: pairs a second, share of the peak, memory",
            settings="scripts.benchmark.card_command:CardSettings",
            example="--peer-script train_diffusion_dpo.py",
            module="card_command",
        ),
        "race": Command(
            purpose="seconds of training to a better policy, ours beside other scripts",
            settings="scripts.benchmark.quality.command:RaceSettings",
            example="--peer-script train_diffusion_dpo.py",
            interrupted="interrupted; the runs so far are kept, and the same command goes on",
            module="quality.command",
        ),
        "losses": Command(
            purpose="every loss of images at equal compute, with flipped labels and without",
            settings="scripts.benchmark.losses.command:LossesSettings",
            example="--jobs 12 --minutes 30",
            interrupted="interrupted; the runs so far are kept, and the same command goes on",
            module="losses.command",
        ),
        "head": Command(
            purpose="the output head of a language model alone: seconds, memory, rounding",
            settings="scripts.benchmark.heads:HeadSettings",
            example="--positions 2048",
            module="heads",
        ),
        "host": Command(
            purpose="what a step takes of the host, on latents of real shapes, without a card",
            settings="scripts.benchmark.host:HostSettings",
            example="--shapes sdxl",
            module="host",
        ),
    }
    words = sys.argv[1:]
    name = words.pop(0) if words and words[0] in COMMANDS else ""
    row, program = COMMANDS[name], f"python scripts/benchmark {name}".strip()
    sys.exit(run(row, f"scripts.benchmark.{row.module}", program, words))
