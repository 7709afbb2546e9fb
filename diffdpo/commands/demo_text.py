"""The bundled text run from end to end: train on the bundled reviews, then evaluate the result."""

from __future__ import annotations

from diffdpo.commands import evaluate_text, train_text_dpo
from diffdpo.commands.settings import DemoTextSettings
from diffdpo.config import parse
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import begin
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.settings import TextSettings


def main(settings: DemoTextSettings) -> int:
    """Train and, unless that was stopped, evaluate; returns the exit code."""
    training, _ = parse(TextSettings, settings.training)
    if train_text_dpo.train(training, begin(training)).finished:
        evaluation, notices = parse(EvaluateTextSettings, settings.evaluation)
        say(*notices)
        evaluate_text.main(evaluation)
    return 0
