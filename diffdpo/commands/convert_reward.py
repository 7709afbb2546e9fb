"""Converts the official file of a reward into the folder that is read here, once."""

from __future__ import annotations

from pathlib import Path

from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_folder
from diffdpo.metrics import REWARDS
from diffdpo.metrics.convert import convert
from diffdpo.metrics.convert_settings import BASES, ConvertSettings


def main(settings: ConvertSettings) -> int:
    """Convert, and open the result to prove that it is whole; returns the exit code."""
    name, folder = str(settings.name), Path(str(settings.output_dir))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as draft:
        convert(name, Path(str(settings.file)), draft, settings.base or BASES[name])
        reward = REWARDS[name](str(draft))
    say(f"reward       {name}: {reward.signature}", f"folder       --reward_model {name}={folder}")
    return 0
