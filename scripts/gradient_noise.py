"""Where the variance of a pair's gradient comes from, and what each remedy could gain:

    python scripts/gradient_noise.py
    python scripts/gradient_noise.py --policy runs/demo/checkpoint-50

Of every pair the gradient of its loss is taken at some noises in each stratum of the timestep, on
the training pairs and at a policy: the bundled model before its first step, or one that was
trained. A gradient is kept as its count sketch (Charikar et al. 2002), which keeps products up to
some per cent and needs little memory. Each pair is written as it is done: the same command goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Before the checkout's own modules are looked for: this folder's short names must hide nobody's.
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from diffdpo.config import BaseSettings  # noqa: E402
from diffdpo.draws import Purpose, generator  # noqa: E402
from diffdpo.engine.console import say  # noqa: E402
from diffdpo.engine.files import atomic_file, write_atomically  # noqa: E402
from diffdpo.errors import short  # noqa: E402
from diffdpo.flags import SEEDS, flag  # noqa: E402
from diffdpo.image.evaluate_settings import EvaluateSettings  # noqa: E402
from diffdpo.image.model.policy import load_policy  # noqa: E402
from diffdpo.image.pictures.framing import FrameSettings  # noqa: E402
from diffdpo.image.process.processes import process_for  # noqa: E402
from diffdpo.image.reading.inputs import open_pairs, open_to_sample  # noqa: E402
from diffdpo.image.scoring.collation import DrawSettings  # noqa: E402
from diffdpo.image.task import ImageTask  # noqa: E402
from diffdpo.preference import implicit_reward  # noqa: E402
from diffdpo.reference import InitialNetwork, Reference, without_dropout  # noqa: E402
from scripts.benchmark.tables import table  # noqa: E402
from scripts.benchmark.work import claimed  # noqa: E402
from scripts.gradient_parts import (  # noqa: E402
    REMEDIES,
    Pulls,
    by_stratum,
    gains,
    shares,
    with_errors,
)

DENSITY = 20_000  # draws of t from which the strata are made
WHAT = {
    "timestep": "between strata of t",
    "pair": "between pairs",
    "both": "pairs that differ by stratum",
    "noise": "noise, at a pair in a stratum",
}


@dataclass(frozen=True)
class GradientNoiseSettings(BaseSettings):
    """All flags of ``python scripts/gradient_noise.py``."""

    policy: str | None = flag(
        None, "a finished run or a checkpoint; default: the bundled model before its first step"
    )
    split: str = flag("train", "split of the pairs")
    beta_dpo: float = flag(1000.0, "beta of the loss", above=0)
    pairs: int = flag(48, "pairs, the first of an order drawn from the seed", least=3)
    strata: int = flag(10, "equal parts of the density of t", least=2)
    noises: int = flag(2, "noises at each pair and stratum; one more is an opposite", least=2)
    numbers: int = flag(4096, "numbers that a gradient is sketched in", least=16)
    seed: int = flag(0, "seed of order, draws and sketch", **SEEDS)
    output_dir: str = flag("runs/gradient-noise", "folder of the pairs done and of the figures")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.policy is not None and not Path(self.policy).is_dir():
            lines.append(f"--policy {short(self.policy)}: no such folder")
        return lines


class Sketch:
    """The count sketch of gradients: every number is added, with a sign, to one of ``size``."""

    def __init__(self, length: int, size: int, seed: int) -> None:
        """``length`` numbers a gradient has."""
        random = torch.Generator().manual_seed(seed % 2**63)
        self.place_D = torch.randint(size, (length,), generator=random)
        self.sign_D = torch.randint(2, (length,), generator=random).mul_(2).sub_(1).to(torch.int8)
        self.size = size

    def __call__(self, gradients: Iterable[Tensor]) -> Tensor:
        """``(size,)``, float32; a product of two sketches is that of the gradients on average."""
        flat_D = torch.cat([gradient.float().cpu().flatten() for gradient in gradients])
        return torch.zeros(self.size).index_add_(0, self.place_D, flat_D * self.sign_D)


@dataclass(frozen=True)
class Policy:
    """A policy that is measured, with all that a logit takes."""

    task: Any
    network: nn.Module
    reference: Reference
    beta: float

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def pull(self, batch: Any, sketch: Sketch) -> tuple[Tensor, float]:
        """The sketch of the gradient of one pair's logit, and the logit."""
        draw = self.task.draw(batch)
        policy_N = self.task.score(self.network, draw).score_N
        reference_N = self.reference.score(self.task.score, self.network, draw)
        chosen, rejected = implicit_reward(policy_N, reference_N).chunk(2)
        logit = self.beta * (chosen - rejected).sum()
        return sketch(torch.autograd.grad(logit, self.weights)), float(logit.detach())


@dataclass(frozen=True)
class Stratum:
    """Draws t from one of the equal parts of its density: a process's ``timestep``."""

    values: tuple[float, ...]

    def __call__(self, random: np.random.Generator) -> float:
        return self.values[int(random.integers(len(self.values)))]


def strata_of(process: Any, count: int, seed: int) -> list[Stratum]:
    """Equal parts of the density of t, from little noise to much."""
    random = generator(seed, Purpose.TIMESTEP)
    drawn = sorted(process.timestep(random) for _ in range(DENSITY))
    return [Stratum(tuple(drawn[i * DENSITY // count : (i + 1) * DENSITY // count]))
            for i in range(count)]  # fmt: skip


def pulls_of_pair(
    policy: Policy, item_of: Any, strata: list[Stratum], noises: int, sketch: Sketch
) -> dict[str, np.ndarray]:
    """Gradients and logits of one pair; ``item_of`` reads it at a visit. Keys as in ``Pulls``."""
    collate, columns = policy.task.collate, []
    for number, stratum in enumerate(strata):
        here = replace(collate, timestep=stratum)
        batches = [here([item_of(number * noises + m)]) for m in range(noises)]
        batches.append(replace(batches[0], noise_D=-batches[0].noise_D))
        columns.append([policy.pull(batch, sketch) for batch in batches])
    pull_TMK = np.stack([[one.numpy() for one, _ in column] for column in columns])
    logit_TM = np.array([[logit for _, logit in column] for column in columns])
    return {
        "pull_PTMK": pull_TMK[:, :noises],
        "logit_PTM": logit_TM[:, :noises],
        "opposite_PTK": pull_TMK[:, noises].copy(),
        "opposite_PT": logit_TM[:, noises].copy(),
    }


def opened(settings: GradientNoiseSettings) -> tuple[Policy, Any, Any]:
    """The policy, its pairs, and the forward process."""
    device = torch.device("cpu")
    given = EvaluateSettings(
        policy=[settings.policy] if settings.policy else [],
        dataset_split_name=settings.split,
        seed=settings.seed,
        mixed_precision="no",
    )
    evaluation, backbone = open_to_sample(given, device)
    pairs = open_pairs(evaluation, FrameSettings(settings.seed, evaluation.resolution or 0))
    if settings.policy:
        network, reference = load_policy(backbone, settings.policy)
        trained = [name for name, _ in network.named_parameters() if "lora_" in name]
        for name, weight in network.named_parameters():
            weight.requires_grad_(not trained or name in trained)
    else:
        network, reference = backbone.network.requires_grad_(True).train(), InitialNetwork()
        without_dropout(network)
    backbone.vae.requires_grad_(False)
    process = process_for(backbone, evaluation)
    draws = DrawSettings(settings.seed, evaluation.resolution or 0)
    task = ImageTask(backbone, process, draws, device, nullcontext)
    return Policy(task, network, reference, settings.beta_dpo), pairs, process


def measured(settings: GradientNoiseSettings, folder: Path) -> Pulls:
    """The gradients of all pairs; those that are in the folder are read."""
    policy, pairs, process = opened(settings)
    length = sum(weight.numel() for weight in policy.weights)
    sketch = Sketch(length, settings.numbers, settings.seed)
    strata = strata_of(process, settings.strata, settings.seed)
    order = generator(settings.seed, Purpose.ORDER).permutation(len(pairs))[: settings.pairs]
    say(f"gradients    {len(order)} pairs x {settings.strata} strata x {settings.noises + 1} draws"
        f" of {length:,} weights, kept in {folder}")  # fmt: skip
    found = []
    for row in tqdm(order.tolist(), unit="pair"):
        path = folder / f"pair-{row}.safetensors"
        if not path.exists():
            columns = pulls_of_pair(
                policy, lambda visit, row=row: pairs.read(row, visit), strata, settings.noises,
                sketch,
            )  # fmt: skip
            with atomic_file(path) as draft:
                save_file(columns, draft)
        found.append(load_file(path))
    return Pulls(**{name: np.stack([one[name] for one in found]).astype(np.float64)
                    for name in found[0]})  # fmt: skip


def folder_of(settings: GradientNoiseSettings) -> Path:
    """The folder. Raises UserError where it holds gradients of other settings."""
    # More pairs go on from fewer: each has its own file.
    own = {name: value for name, value in asdict(settings).items()
           if name not in ("output_dir", "pairs")}  # fmt: skip
    return claimed(settings.output_dir, own, "--output_dir")


def figures(pulls: Pulls) -> dict[str, Any]:
    """All figures, with standard errors where there are some."""
    rows = {name: values.tolist() for name, values in by_stratum(pulls.gradient_PTMK).items()}
    return {
        "shares": with_errors(shares, pulls),
        "gains": with_errors(gains, pulls),
        "strata": rows,
    }


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    part = [(WHAT[name], f"{value:.1%}", f"{error:.1%}")
            for name, (value, error) in found["shares"].items() if name in WHAT]  # fmt: skip
    gain = [(name, REMEDIES[name], f"{value:.2f}", f"{error:.2f}")
            for name, (value, error) in found["gains"].items()]  # fmt: skip
    strata = found["strata"]
    rows = [(str(i + 1), *(f"{strata[name][i]:.3g}" for name in strata))
            for i in range(len(strata["projection"]))]  # fmt: skip
    ratio, opposite = (found["shares"][name] for name in ("signal_to_noise", "opposite"))
    return "\n\n".join([
        table(("part of a pair's gradient variance", "share", "standard error"), part),
        f"Squared signal-to-noise of one pair at one draw: {ratio[0]:.3g} ± {ratio[1]:.2g}."
        f" Correlation under opposite noises: {opposite[0]:.2f} ± {opposite[1]:.2f}.",
        table(("remedy", "what it does", "squared signal-to-noise, times", "standard error"), gain),
        table(("stratum of t", "E\\|g\\|², mean 1", "projection on the mean gradient",
               "squared signal-to-noise"), rows),
    ])  # fmt: skip


def main(settings: GradientNoiseSettings) -> int:
    """Measure, print and write."""
    folder = folder_of(settings)
    found = figures(measured(settings, folder))
    text = page(found)
    write_atomically(folder / "noise.json", json.dumps(found, indent=1) + "\n")
    write_atomically(folder / "noise.md", text + "\n")
    say(text, "", f"result       {folder}/noise.json and .md")
    return 0


if __name__ == "__main__":
    from diffdpo.cli import Command, run

    COMMAND = Command(
        purpose="the variance of a pair's gradient by timestep, pair and noise",
        settings="scripts.gradient_noise:GradientNoiseSettings",
        example="--policy runs/demo",
        interrupted="interrupted; the pairs so far are kept, and the same command goes on",
    )
    sys.exit(run(COMMAND, "scripts.gradient_noise", "gradient_noise.py", sys.argv[1:]))
