"""Samples candidates for prompts, lets rewards judge them, and writes pairs to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from diffdpo.engine.accelerator import DTYPES, own_state, sharing_accelerator
from diffdpo.engine.console import fail, say, start_lines
from diffdpo.engine.run_folder import end, writable
from diffdpo.errors import UserError
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.reading.inputs import with_bundled_pairs
from diffdpo.image.sampling.candidates import picture_source, plan_lines, prompts_of, resolved
from diffdpo.metrics import open_rewards, open_text_rewards
from diffdpo.metrics.reward import Reward
from diffdpo.pairs.make import Plan, make
from diffdpo.text.pair_settings import TextPairSettings
from diffdpo.text.sampling import candidates as texts


def main(settings: PairSettings | TextPairSettings) -> int:
    """Sample, score, select, write; returns the exit code."""
    folder = writable(settings.output_dir)
    with own_state():
        accelerator = sharing_accelerator()
        try:
            if isinstance(settings, PairSettings):
                make_pictures(settings, folder, accelerator)
            else:
                make_texts(settings, folder, accelerator)
        except UserError as error:
            if not accelerator.is_main_process:  # it may be this one's own: a reward that fails
                fail(error, own=True)
            raise
        end(accelerator)
    return 0


def make_pictures(settings: PairSettings, folder: Path, accelerator: Accelerator) -> None:
    """Pairs of pictures."""
    device, precision = accelerator.device, DTYPES[settings.reward_precision]
    # Rewards and prompts before anything is sampled: what is missing stops the command at once.
    rewards = open_rewards(settings.reward, settings.reward_paths, device, precision)
    if settings.prompts is None:
        settings = with_bundled_pairs(settings)
    prompts = prompts_of(settings)
    settings, skeleton = resolved(settings, device)
    source = picture_source(settings, skeleton, prompts, rewards, device)
    start_lines(plan_lines(settings, skeleton, source))
    say(*too_long(rewards, prompts))
    make(source, plan_of(settings, folder), accelerator)


def make_texts(settings: TextPairSettings, folder: Path, accelerator: Accelerator) -> None:
    """Pairs of completions."""
    device, precision = accelerator.device, DTYPES[settings.reward_precision]
    rewards = open_text_rewards(settings.reward, settings.reward_paths, device, precision)
    writer = texts.open_writer(settings, device)
    source = texts.text_source(settings, writer, rewards, device)
    start_lines(texts.plan_lines(settings, source))
    make(source, plan_of(settings, folder), accelerator)


def plan_of(settings: PairSettings | TextPairSettings, folder: Path) -> Plan:
    """What is made of the candidates, and where."""
    return Plan(
        folder,
        settings.candidates,
        settings.reward_batch_size,
        settings.precompute_dir,
        settings.selection(settings.seed),
    )


def too_long(rewards: dict[str, Reward], prompts: Sequence[str]) -> list[str]:
    """A line for each reward that reads some prompts not to their end."""
    counts = {name: reward.too_long(prompts) for name, reward in rewards.items()}
    return [
        f"note         {name} reads {count:,} of {len(prompts):,} prompts without their end"
        for name, count in counts.items()
        if count
    ]
