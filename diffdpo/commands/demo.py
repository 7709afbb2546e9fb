"""The bundled image run from end to end: train on the bundled pairs, then evaluate the result."""

from __future__ import annotations

from diffdpo.commands import evaluate, train_diffusion_dpo
from diffdpo.commands.settings import DemoSettings
from diffdpo.config import parse
from diffdpo.engine.console import rank, say
from diffdpo.engine.run_folder import begin
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageSettings


def main(settings: DemoSettings) -> int:
    """Train and, unless that was stopped, evaluate; returns the exit code."""
    training, _ = parse(ImageSettings, settings.training)
    result = train_diffusion_dpo.train(training, begin(training))
    # Training is shared among the processes of a launcher; the evaluation is the first one's.
    if not result.finished or rank():
        return result.exit_code
    evaluation, notices = parse(EvaluateSettings, settings.evaluation)
    say(*notices)
    return evaluate.main(evaluation, alone=True)
