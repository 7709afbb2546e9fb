"""``diffdpo COMMAND …``: the commands by name, and what becomes of mistakes."""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "train_diffusion_dpo": "image preference training",
    "train_text_dpo": "text preference training",
    "precompute": "latents, embeddings and reference scores to disk, for all runs to come",
    "evaluate": "policy against reference: win rate, pictures, report",
    "evaluate_text": "language model against its reference: reward, KL, report",
    "make_pairs": "sample two pictures a prompt and let a reward choose",
    "fit_bradley_terry": "strengths and ranks from comparisons",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        asked_for_help = bool(words) and words[0] in ("-h", "--help")
        print("usage: diffdpo COMMAND [flags]; COMMAND --help lists them\n", file=sys.stderr)
        for name, purpose in COMMANDS.items():
            print(f"  {name:<22} {purpose}", file=sys.stderr)
        return 0 if asked_for_help else 2
    return run_command(words[0], words[1:])


def run_command(name: str, argv: list[str], package: str = "diffdpo.commands") -> int:
    """Run the module ``name`` of ``package`` and turn mistakes into lines and an exit code."""
    # Set before the libraries load: their remarks on optional packages are not the user's concern.
    for library in ("TRANSFORMERS", "DIFFUSERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    from diffdpo.engine.console import fail, quiet_libraries
    from diffdpo.errors import UserError

    quiet_libraries()
    try:
        return importlib.import_module(f"{package}.{name}").main(argv)
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("interrupted before training began; nothing to save", file=sys.stderr)
        return 130
