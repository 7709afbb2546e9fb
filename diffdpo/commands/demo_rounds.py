"""Two rounds with the bundled model, beside one training of as many steps on the first round's
pairs, and beside the best of four pictures of the model itself."""

from __future__ import annotations

from diffdpo.commands import rounds
from diffdpo.commands.rounds_record import Record
from diffdpo.commands.rounds_settings import DemoRoundsSettings, RoundsSettings
from diffdpo.config import parse
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import writable

BEST_OF = 4


def main(settings: DemoRoundsSettings) -> int:
    """Make the rounds, then train for as long at once, and judge all; returns the exit code."""
    plan, notices = parse(RoundsSettings, settings.rounds)
    say(*notices)
    if code := rounds.main(plan):
        return code
    record = Record.open(writable(plan.output_dir))
    for stage in (long_training(plan), final_judging(plan, record)):
        if code := rounds.carry_out(stage, record):
            return code
    return 0


def long_training(plan: RoundsSettings) -> rounds.Stage:
    """All steps of the rounds on the pairs of the first."""
    content = rounds.training_of(plan, 1)
    content["max_train_steps"] = plan.rounds * content["max_train_steps"]
    content["output_dir"] = str(plan.folder / "long")
    return rounds.Stage(1, "long", content, rounds.trained)


def final_judging(plan: RoundsSettings, record: Record) -> rounds.Stage:
    """The rounds that were made, the long training and the best of four, on the same prompts."""
    made = [n for n in range(1, plan.rounds + 1) if f"policy-{n}" in record.finished]
    content = rounds.judging_of(plan, made[-1])
    content["policy"] = [*content["policy"], str(plan.folder / "long")]
    content |= {"best_of": BEST_OF, "headline": plan.reward[0]}
    return rounds.Stage(made[-1], "together", content, rounds.judged)
