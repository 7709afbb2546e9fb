"""Data sets as recipes of alignment-handbook and LLaMA-Factory mix them, as settings of this
package."""

from __future__ import annotations

from typing import Any

from diffdpo.errors import short

TRL = {"id": "path", "config": "name"}  # what TRL calls a part of an entry
SEED = "dataset_mixture: seed: rows are picked by --seed"


def read_mixture(value: Any) -> dict[str, Any]:
    """alignment-handbook's mixture: data sets with the share of each that is taken, and the size of
    what is held out of them. Raises ValueError for what it does not know."""
    content = value if isinstance(value, dict) else {}
    for key in content:
        if key not in ("datasets", "test_split_size", "seed"):
            raise ValueError(f"dataset_mixture: {short(key)} is unknown")
    entries = content.get("datasets")
    listed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not listed or not entries:
        raise ValueError("dataset_mixture: datasets are wanted, each with its id and split")
    own = [{TRL.get(key, key): value for key, value in entry.items()} for entry in entries]
    found: dict[str, Any] = {"datasets": [{"weight": 1.0, **entry} for entry in own]}
    if content.get("test_split_size"):
        found["eval_fraction"] = content["test_split_size"]
    return found


def read_mixer(value: Any) -> dict[str, Any]:
    """alignment-handbook's older mixture: the share of each data set by its name."""
    if not isinstance(value, dict) or not value:
        raise ValueError("dataset_mixer: names of data sets with shares are wanted")
    return {"datasets": [{"path": name, "weight": share} for name, share in value.items()]}


def read_probabilities(value: Any) -> dict[str, Any]:
    """LLaMA-Factory's probabilities, with commas between them. Raises ValueError for no numbers."""
    words = value if isinstance(value, list) else str(value).split(",")
    try:
        return {"dataset_weights": [float(word) for word in words]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"interleave_probs {short(value)}: numbers are wanted") from error
