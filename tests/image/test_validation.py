"""Validation pictures of a prompt are compared with each other, and a collapse is told once."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from PIL import Image

from diffdpo.image.sampling.validation import ValidationPictures
from tests.factory import picture, read_jsonl

PROMPTS = ["a", "b", "c", "d"]


@pytest.fixture
def pictures(tmp_path):
    """Of a policy that draws as the reference does, until it is told to draw one and the same."""

    class Drawn(ValidationPictures):
        def pictures(self, network):
            assert len(self.seeds) == len(set(self.seeds)) == 8
            size = (32, 32)
            if network == "collapsed":
                return [Image.new("RGB", size, "red")] * 8
            return [picture(number, size) for number in range(8)]

    settings = SimpleNamespace(
        seed=0, num_validation_images=2, output_dir=str(tmp_path), run_validation=True,
        validation_prompts=PROMPTS, validation_steps=1,
    )  # fmt: skip
    logged = {"trackers": [], "log": lambda figures, step: None}
    accelerator = SimpleNamespace(is_main_process=True, is_fsdp2=False, **logged)
    reference = SimpleNamespace(network=lambda network: nullcontext("reference"))
    return Drawn(settings, None, "reference", reference, [], accelerator)


def test_a_collapse_is_told_once_and_not_again_after_a_pause(pictures, tmp_path, capsys):
    for step in (1, 2):
        pictures.measure(step)
    assert "collapse" not in capsys.readouterr().out
    pictures.network = "collapsed"
    for step in (3, 4, 4):  # the last one is sampled again by a run that goes on
        pictures.measure(step)
    out = capsys.readouterr().out
    assert out.count("collapse     step 3: pictures of a prompt differ by") == 1
    assert out.count("collapse ") == 1
    assert "(-100% [-100%, -100%]); take an earlier checkpoint" in out
    lines = read_jsonl(tmp_path / "validation" / "diversity.jsonl")
    assert [(line["step"], line["collapsed"]) for line in lines] == [
        (1, False), (2, False), (3, True), (4, True),
    ]  # fmt: skip
    assert lines[0]["diversity/share"] == 0
    assert lines[2]["diversity/policy"] == pytest.approx(0, abs=1e-9)


def test_pictures_of_a_prompt_stand_together(pictures):
    assert pictures.of_each_prompt(list("abcdABCD")) == [list(two) for two in "aA bB cC dD".split()]
