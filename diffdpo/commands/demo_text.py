"""The bundled text run from end to end: train on the bundled reviews, then evaluate the result."""

from __future__ import annotations

from diffdpo.commands import evaluate_text, train_text_dpo
from diffdpo.commands.settings import DemoTextSettings
from diffdpo.config import parse
from diffdpo.engine.console import rank, say
from diffdpo.engine.run_folder import begin
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.settings import TextSettings


def main(settings: DemoTextSettings) -> int:
    """Train and, unless that was stopped, evaluate; returns the exit code."""
    training, _ = parse(TextSettings, settings.training)
    result = train_text_dpo.train(training, begin(training))
    # Training is shared among the processes of a launcher; the evaluation is the first one's.
    if not result.finished or rank():
        return result.exit_code
    evaluation, notices = parse(EvaluateTextSettings, settings.evaluation)
    say(*notices)
    return evaluate_text.main(evaluation)
