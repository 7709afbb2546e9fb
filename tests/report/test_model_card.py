"""The model card says what it is given, and nothing that a name smuggles in."""

from huggingface_hub import ModelCardData

from diffdpo.config import TrainSettings
from diffdpo.report.model_card import as_markdown, model_card


def card(output_dir, last):
    facts = ModelCardData(library_name="diffusers")
    return model_card(TrainSettings(output_dir=output_dir), facts, "A LoRA.", "code", last)


def test_the_name_of_the_folder_is_text():
    lines = card("runs/<img src=x onerror=alert(1)> [a](b) `c`", {}).splitlines()
    assert "# \\<img src=x onerror=alert(1)\\> \\[a\\](b) \\`c\\`" in lines
    assert "# my_run-1.2" in card("runs/my_run-1.2", {}).splitlines()
    assert as_markdown("a\n# b") == "a \\# b"


def test_the_last_step_is_shown_with_four_digits_of_each_figure():
    last = {"step": 1200, "loss": 0.69314718, "rewards/margins": 1.23456e-7}
    assert "Last logged step: step 1200, loss 0.6931, rewards/margins 1.235e-07" in card("r", last)
