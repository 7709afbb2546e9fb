"""The reference's scores of a run's visits, computed before training and stored."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from diffdpo.cache.keys import Key, network_digest
from diffdpo.cache.scores import score_rows
from diffdpo.cache.visits import RunVisits
from diffdpo.engine.batches import Rows
from diffdpo.engine.console import say
from diffdpo.engine.plan import Plan
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import ImageTask
from diffdpo.reference import OtherModel, Reference


def stored_reference(
    rows: Rows,
    task: ImageTask,
    network: nn.Module,
    reference: Reference,
    key: Key,
    settings: ImageSettings,
    accelerator: Accelerator,
) -> tuple[Rows, Reference]:
    """The rows with the scores that ``key`` names, and the reference that reads them."""
    plan = Plan(settings, len(rows), accelerator.num_processes)
    positions = plan.total_steps * plan.effective_batch
    if settings.holdout is not None:  # the stream then skips pairs, and those are measured
        positions = settings.reference_draws * len(rows)
    visits = RunVisits(rows, settings.seed, settings.reference_draws, positions)
    say(scoring_line(len(rows), positions, settings))
    return score_rows(
        rows,
        task,
        network,
        reference,
        settings.train_batch_size,
        key,
        settings.precompute_dir,
        accelerator,
        settings.workers_on(accelerator.device.type),
        visits,
    )


def function_digest(reference: Reference, network: nn.Module) -> str:
    """The digest of the reference: that of the policy's network before its first step, where that
    is the same function."""
    return network_digest(reference.copy if isinstance(reference, OtherModel) else network)


def scoring_line(pairs: int, positions: int, settings: ImageSettings) -> str:
    """How many draws are scored, and what that costs beside a live reference, which is run once
    for each pair that is seen."""
    asked, visits = settings.reference_draws, positions / pairs
    scored = min(asked, visits)
    line = f"reference    {scored:.4g} of {asked} draws a pair are scored"
    if scored < asked:
        line += (
            ", the run visits no more; as many forward passes as a live reference takes: they pay"
            " from the second run on"
        )
    else:
        line += (
            f", for {visits:.4g} visits: {scored / visits:.2g} of the forward passes that a live"
            f" reference takes; they pay after {scored:g} epochs, or from the second run on"
        )
    if not settings.cache_latents and not settings.random_crop:
        often = f"{scored + visits:.3g} times, to be scored and trained on"
        line += f"; a pair is encoded {often}: with --cache_latents once"
    return line
