"""A process that carries out runs, ``python -m scripts.benchmark.losses.worker GIVEN ANSWERS``.

GIVEN are the conditions as JSON, ANSWERS the number of an open file. Every line on the standard
input asks for a run, and every answer is a line; what the runs print goes to the log. The process
ends with its input, that is with the command that started it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import torch

from scripts.benchmark.losses.plan import Cell, Conditions
from scripts.benchmark.losses.trial import Trials
from scripts.benchmark.worker import last_line


def main(argv: list[str]) -> int:
    """Answer until the input ends."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    trials = Trials(Conditions(**json.loads(argv[0])))
    with os.fdopen(int(argv[1]), "w") as answers:
        for line in sys.stdin:
            answers.write(json.dumps(answer(trials, json.loads(line))) + "\n")
            answers.flush()
    return 0


def answer(trials: Trials, request: dict[str, Any]) -> dict[str, Any]:
    """What a run found, or the line of its failure: the runs after it need not fail."""
    try:
        if "loss" not in request:
            trials.prepare(request["model"])
            return {}
        return trials.carry_out(Cell(**request))
    except Exception as error:
        traceback.print_exc()
        return {"failed": last_line(error)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
