"""Rounds: the policy so far makes pairs, is trained on them, is judged, and makes the next pairs.

Every stage is one of the other commands, with settings that it could be given by hand. What is
finished is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from diffdpo.commands import evaluate, make_pairs, train_diffusion_dpo
from diffdpo.commands.rounds_record import Record
from diffdpo.commands.rounds_settings import RoundsSettings
from diffdpo.config import BaseSettings, as_recorded, settings_of
from diffdpo.data.made_pairs import RECORD
from diffdpo.data.source import open_dataset
from diffdpo.draws import epoch_order
from diffdpo.engine.accelerator import own_state
from diffdpo.engine.console import rank, say
from diffdpo.engine.crew import crew
from diffdpo.engine.files import atomic_file, write_atomically
from diffdpo.engine.run_folder import begin, writable
from diffdpo.errors import UserError
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.metrics.intervals import Estimate


@dataclass(frozen=True)
class Stage:
    """A command of a round, its settings by name, and how it is carried out."""

    round: int
    name: str
    settings: dict[str, Any]
    run: Callable[[dict[str, Any]], int]

    @property
    def title(self) -> str:
        """'pairs-1', which is the name of its folder as well."""
        return f"{self.name}-{self.round}"


def main(settings: RoundsSettings) -> int:
    """All rounds, or as many as help; returns the exit code."""
    check_sections(settings)
    record = Record.open(writable(settings.output_dir))
    for number in range(1, settings.rounds + 1):
        for stage in stages(settings, number):
            if code := carry_out(stage, record):
                return code
            if stage.name == "pairs" and (line := unlabelled(settings, number)):
                say(line)
                return 0
        if number > 1 and falls(settings, number):
            break
    return 0


def check_sections(settings: RoundsSettings) -> None:
    """Raise UserError for what the sections hold that their commands do not take: when the stage
    comes, hours of sampling and training may lie before it."""
    # Of the folders that stages make, nothing is there yet; prompts that are there stand in.
    there = {"dataset_name": settings.prompts}
    plans: list[tuple[str, type[BaseSettings], dict[str, Any]]] = [
        ("make_pairs", PairSettings, pairs_of(settings, 1)),
        ("train", ImageSettings, training_of(settings, 1) | there),
        ("evaluate", EvaluateSettings, judging_of(settings, 1)),
    ]
    mistakes: list[str] = []
    for section, cls, content in plans:
        try:
            own = as_recorded(cls, section, content)
        except UserError as error:
            named = f"{section}: "
            mistakes += [named + line.removeprefix(named) for line in error.mistakes]
            continue
        # An evaluation also asks for the policies, which only training makes.
        lines = BaseSettings.problems(own) if section == "evaluate" else own.problems()
        mistakes += [f"{section}: {line}" for line in lines]
    if mistakes:
        raise UserError(*mistakes)


def carry_out(stage: Stage, record: Record) -> int:
    """Run a stage unless it is finished; returns its exit code.

    Raises UserError where it was finished with other settings.
    """
    if record.has(stage.title, stage.settings):
        say(f"{stage.title:<12} finished before")
        return 0
    say(f"{stage.title:<12} begins")
    code = stage.run(stage.settings)
    if not code and not rank():
        record.add(stage.title, stage.settings)
    return code


def stages(settings: RoundsSettings, number: int) -> Iterator[Stage]:
    """The stages of a round, in their order."""
    yield Stage(number, "pairs", pairs_of(settings, number), sampled)
    if settings.keep_pairs and number > 1:
        yield Stage(number, "data", data_of(settings, number), mixed)
    yield Stage(number, "policy", training_of(settings, number), trained)
    yield Stage(number, "evaluation", judging_of(settings, number), judged)


def place(settings: RoundsSettings, number: int, name: str) -> str:
    """The folder of a stage."""
    return str(settings.folder / f"{name}-{number}")


def common(settings: RoundsSettings, section: str) -> dict[str, Any]:
    """What several commands have in common, and what the user set for this one."""
    model = settings.pretrained_model_name_or_path
    named = {"pretrained_model_name_or_path": model} if model else {}
    return {**named, **settings.section(section)}


def pairs_of(settings: RoundsSettings, number: int) -> dict[str, Any]:
    """The settings of make_pairs. Every round has candidates of its own."""
    before = {"policy": place(settings, number - 1, "policy")} if number > 1 else {}
    return {
        **common(settings, "make_pairs"),
        **before,
        "prompts": settings.prompts,
        "reward": settings.reward,
        "reward_model": models_of(settings, settings.reward),
        "reward_batch_size": settings.reward_batch_size,
        "reward_precision": settings.reward_precision,
        "seed": settings.seed + number,
        "output_dir": place(settings, number, "pairs"),
    }


def models_of(settings: RoundsSettings, rewards: list[str]) -> list[str]:
    """The values of --reward_model that are about these rewards."""
    return [word for word in settings.reward_model if word.partition("=")[0] in rewards]


def labelled(settings: RoundsSettings, number: int) -> str:
    """The folder of the labelled pairs of a round: the rewards', or those that people chose."""
    if settings.label == "rewards":
        return place(settings, number, "pairs")
    return str(Path(place(settings, number, "votes")) / "pairs")


def data_of(settings: RoundsSettings, number: int) -> dict[str, Any]:
    """What the training set of a round is mixed of."""
    return {
        "new": labelled(settings, number),
        "earlier": [labelled(settings, earlier) for earlier in range(1, number)],
        "share": settings.keep_pairs,
        "seed": settings.seed + number,
        "output_dir": place(settings, number, "data"),
    }


def training_of(settings: RoundsSettings, number: int) -> dict[str, Any]:
    """The settings of the trainer, which goes on from the round before."""
    data = data_of(settings, number)
    name = data["output_dir"] if settings.keep_pairs and number > 1 else data["new"]
    content = {**common(settings, "train"), "dataset_name": name, "seed": settings.seed}
    if number > 1:
        lora = "rank" in content
        content["init_lora" if lora else "unet_init"] = place(settings, number - 1, "policy")
        content["reference"] = "base" if settings.reference == "first" else "start"
    return {**content, "output_dir": place(settings, number, "policy")}


def judging_of(settings: RoundsSettings, number: int) -> dict[str, Any]:
    """The settings of evaluate: all rounds so far, held-out rewards first."""
    rewards = [*settings.held_out_reward, *settings.reward]
    return {
        **settings.section("evaluate"),  # the model is that of the first round's run
        "policy": [place(settings, each, "policy") for each in range(1, number + 1)],
        "prompts": settings.eval_prompts,
        "reward": rewards,
        "reward_model": models_of(settings, rewards),
        "reward_batch_size": settings.reward_batch_size,
        "reward_precision": settings.reward_precision,
        "headline": settings.held_out_reward[0],
        "seed": settings.seed,
        # One folder for all: pictures that are kept there are not sampled again.
        "output_dir": str(settings.folder / "evaluation"),
    }


def sampled(content: dict[str, Any]) -> int:
    """Make the pairs."""
    return make_pairs.main(settings_of(PairSettings, **content))


def trained(content: dict[str, Any]) -> int:
    """Train; a run that was begun goes on."""
    begun = Path(content["output_dir"]).is_dir()
    resume = {"resume_from_checkpoint": "latest"} if begun else {}
    settings = settings_of(ImageSettings, **content, **resume)
    with own_state():
        return train_diffusion_dpo.train(settings, begin(settings)).exit_code


def judged(content: dict[str, Any]) -> int:
    """Evaluate."""
    return evaluate.main(settings_of(EvaluateSettings, **content))


def mixed(content: dict[str, Any]) -> int:
    """Write the pairs of a round, with some of earlier rounds among them."""
    new, earlier = rows_of(content["new"]), [rows_of(name) for name in content["earlier"]]
    pool = concatenate_datasets(earlier)
    count = min(len(pool), round(content["share"] * len(new)))
    kept = pool.select(sorted(epoch_order(content["seed"], -1, len(pool))[:count].tolist()))
    folder = writable(content["output_dir"])
    with crew() as team:
        if team.first:
            with atomic_file(folder / "train-00000.parquet") as draft:
                concatenate_datasets([new, kept]).to_parquet(draft)
            record = Path(content["new"]) / RECORD
            if record.exists():  # which rewards made the pairs holds for all of them
                write_atomically(folder / RECORD, record.read_text())
        team.wait()
    say(f"data         {len(new):,} pairs of this round, {count:,} of {len(pool):,} earlier ones")
    return 0


def rows_of(folder: str) -> Dataset:
    """The pairs that a stage wrote."""
    return open_dataset(folder, "train")


def unlabelled(settings: RoundsSettings, number: int) -> str:
    """The line that asks people to choose; '' where nobody is needed, or they have chosen."""
    labels = labelled(settings, number)
    if settings.label == "rewards" or list(Path(labels).glob("train-*.parquet")):
        return ""
    pairs, votes = (place(settings, number, name) for name in ("pairs", "votes"))
    return (
        f"choose       diffdpo annotate {pairs} --output_dir {votes}; Ctrl-C there writes the"
        " labels, and then the same command goes on"
    )


def falls(settings: RoundsSettings, number: int) -> bool:
    """Whether the first held-out reward prefers the round before to this one, beyond chance; says
    what it found."""
    reward = settings.held_out_reward[0]
    rate = against_before(settings, number, reward)
    say(f"round {number:<6} {rate.percent()} against round {number - 1} by {reward}, held out")
    worse = rate.interval[1] < 0.5
    if worse:
        say(f"stopped      round {number} is worse by {reward}; round {number - 1} is the result")
    return worse


def against_before(settings: RoundsSettings, number: int, reward: str) -> Estimate:
    """How often a round's pictures score higher than those of the round before, as the evaluation
    has found it."""
    found = json.loads((settings.folder / "evaluation" / "evaluation.json").read_text())
    two = {"reward": reward, "policy": f"policy-{number}", "against": f"policy-{number - 1}"}
    (row,) = (row for row in found["table"] if two.items() <= row.items())
    return Estimate.from_dict(row["win_rate"])
