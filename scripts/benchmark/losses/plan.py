"""What the table of losses is made of: models, shares of flipped labels, losses, seeds, and the
order in which they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffdpo.errors import UserError, short
from diffdpo.image.bundled import FLOW_MODEL, MODEL
from scripts.benchmark.quality.tasks import Task

COIN = 0.5  # of labels turned round: they say nothing
SHARES = (0.0, 0.2, COIN, 0.1)
# Rates and betas are those of the bundled recipes.
MODELS = {
    task.name: task
    for task in (
        Task("diffusion", "the bundled model that predicts velocities", MODEL, ("1e-4",), "1000",
             {}, {}),
        Task("flow", "the bundled flow model", FLOW_MODEL, ("2e-4",), "200", {}, {},
             text_length=8),
    )
}  # fmt: skip

BASELINE = "sigmoid"  # what other losses are compared with
# Losses that pull a margin to a target, 1/(2β) or 1/β. At the beta of the others that is a tenth of
# the spread of margins by chance; at a twentieth of it, it is where the others' margins end.
TARGETED, SOFTER = ("ipo", "sppo_hard", "capo"), 20
SOFT = f"{BASELINE}-soft"  # the baseline at that beta: what beta alone does


@dataclass(frozen=True)
class Conditions:
    """What all runs of a table have in common; ``work`` is its folder."""

    work: str
    steps: int
    captions: int
    pictures: int  # of each caption
    draws: int  # of each held-out pair
    sampling_steps: int


@dataclass(frozen=True)
class Cell:
    """One run: a loss on a model, its labels flipped at a share, and its seed."""

    model: str
    share: float
    loss: str
    seed: int

    @property
    def name(self) -> str:
        """A name for its files."""
        return f"{self.model}-{self.share:g}-{self.loss}-{self.seed}"

    @property
    def loss_type(self) -> str:
        """The loss, as the table of losses calls it."""
        return BASELINE if self.loss == SOFT else self.loss

    @property
    def task(self) -> Task:
        """The model's task, at the beta of the loss."""
        task = MODELS[self.model]
        if self.loss not in (*TARGETED, SOFT):
            return task
        return replace(task, beta=f"{float(task.beta) / SOFTER:g}")

    def result(self, work: Path) -> Path:
        """Where what was found is kept."""
        return work / "results" / f"{self.name}.json"


def image_losses() -> list[str]:
    """The names of all losses of images, and of the softer baseline."""
    from diffdpo.losses import LOSSES  # not above: it loads PyTorch

    return [*(name for name, row in LOSSES.items() if row.only != "text"), SOFT]


def named(wanted: Sequence[str], known: Sequence[str], flag: str) -> list[str]:
    """The names that are asked for, all where none is. Raises UserError for one not known."""
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--{flag} {short(unknown[0])}: not known; known: {', '.join(known)}")
    return list(wanted or known)


def cells(
    models: Sequence[str], shares: Sequence[float], losses: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """All runs: a seed after the other, so that what is there at any time has all losses."""
    return [
        Cell(model, share, loss, seed)
        for seed in seeds
        for share in shares
        for model in models
        for loss in losses
    ]
