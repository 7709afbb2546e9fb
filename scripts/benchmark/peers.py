"""Runs other people's training scripts unedited. They are told apart by their flags.

Where a package that they import is missing, a stand-in replaces it in that process alone, and the
report names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffdpo.errors import UserError
from scripts.benchmark import stand_ins

# A flag that one script alone knows.
MARKS = {"diffusers": "--vae_encode_batch_size", "salesforce": "--dreamlike_pairs_only"}
STAND_INS = {
    "diffusers": ["torchvision", "wandb"],
    "salesforce": ["torchvision", "xformers"],
}
WHAT = {
    "torchvision": "image transforms made with Pillow",
    "wandb": "an empty module",
    "xformers": "attention stays PyTorch's own, scaled_dot_product_attention",
}


@dataclass(frozen=True)
class Peer:
    """A script and its author: a key of MARKS."""

    kind: str
    path: Path

    def notes(self) -> list[str]:
        """The stand-in for every missing package, a line each."""
        return [
            f"{self.kind}: {name} is not installed; stand-in: {WHAT[name]}"
            for name in missing(self.kind)
        ]


def missing(kind: str) -> list[str]:
    """Packages that the script imports and that are not installed."""
    return [name for name in STAND_INS[kind] if importlib.util.find_spec(name) is None]


def recognise(name: str) -> Peer:
    """The script's author. Raises UserError for one that cannot be read, or is of neither."""
    path = Path(name)
    try:
        source = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--peer_script {name}: cannot be read ({error})") from error
    kinds = [
        kind for kind, mark in MARKS.items() if f'"{mark}"' in source and '"--beta_dpo"' in source
    ]
    if len(kinds) != 1:
        authors = " or ".join(f"{kind}'s (which has {mark})" for kind, mark in MARKS.items())
        raise UserError(
            f"--peer_script {name}: not a Diffusion-DPO script that is known here: {authors}"
        )
    return Peer(kinds[0], path.resolve())


def prepare(path: str, flags: list[str]) -> Callable[[], None]:
    """The script as a function; what it imports and is missing gets its stand-in."""
    peer = recognise(path)
    # Loaded first: these libraries look for optional packages once, and would take a stand-in for
    # the real one.
    for name in (
        "transformers",
        "diffusers",
        "accelerate",
        "peft",
        "datasets",
        "torch.utils.tensorboard",
    ):
        importlib.import_module(name)
    settle_libraries()
    for name in missing(peer.kind):
        install_stand_in(name)

    def run() -> None:
        sys.argv = [str(peer.path), *flags]
        sys.path.insert(0, str(peer.path.parent))
        runpy.run_path(str(peer.path), run_name="__main__")

    return run


def settle_libraries() -> None:
    """Load the classes that the scripts use before the stand-ins are there: transformers and
    diffusers import lazily and would use a stand-in."""
    import diffusers
    import transformers

    transformers.utils.is_torchvision_available()
    for name in ("CLIPTextModel", "CLIPTokenizer", "AutoTokenizer"):
        getattr(transformers, name)
    for name in (
        "UNet2DConditionModel",
        "AutoencoderKL",
        "DDPMScheduler",
        "StableDiffusionXLPipeline",
    ):
        getattr(diffusers, name)
    for name in ("StableDiffusionPipeline", "DiffusionPipeline", "DPMSolverMultistepScheduler"):
        getattr(diffusers, name)
    importlib.import_module("diffusers.loaders")


def install_stand_in(name: str) -> None:
    """Make ``import name`` return the stand-in."""
    if name == "xformers":
        stand_ins.use_own_attention()
    sys.modules.update(stand_ins.MODULES[name]())
