"""Short runs of the trainers: their words, and the metrics that they leave."""

from __future__ import annotations

from pathlib import Path

from tests.factory import read_jsonl

TIMED = {"pairs_per_second"}  # metrics that no two runs have in common


def words_of(settings):
    """Settings as words of the command line: True is a flag alone, None no flag."""
    words = []
    for name, value in settings.items():
        if value is not None:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return words


def metrics(out):
    """The metrics that a run has written, without those of time."""
    return [
        {k: v for k, v in line.items() if k not in TIMED}
        for line in read_jsonl(Path(out) / "metrics.jsonl")
    ]


def sums(tensors):
    """The sum of every tensor: an exported LoRA has the same numbers under other names."""
    return sorted(value.double().sum().item() for value in tensors.values())


def only_error(capsys):
    """The one error line that a command has printed."""
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    return line
