"""The model card says what it is given and nothing that a name smuggles in; it comes beside a
README.md of the user's, not in its place."""

import pytest
from huggingface_hub import ModelCardData

from diffdpo.engine.settings import TrainSettings
from diffdpo.report.model_card import (
    BESIDE,
    NAME,
    as_markdown,
    data_of,
    hub_id,
    load_from,
    model_card,
    write_card,
)


@pytest.fixture
def folders(tmp_path):
    folder, draft = tmp_path / "run", tmp_path / "draft"
    folder.mkdir()
    draft.mkdir()
    return draft, folder


def published(text, draft, folder):
    write_card(text, draft, folder)
    (entry,) = draft.iterdir()
    entry.rename(folder / entry.name)
    return entry.name


def test_a_card_replaces_a_card_and_nothing_else(folders, capsys):
    draft, folder = folders
    assert published("# first\n", draft, folder) == NAME
    assert published("# second\n", draft, folder) == NAME
    assert (folder / NAME).read_text().startswith("# second\n")
    assert not capsys.readouterr().out
    (folder / NAME).write_text((folder / NAME).read_text().replace("second", "edited"))
    assert published("# third\n", draft, folder) == BESIDE
    assert "README.md is not the card of a run and stays" in capsys.readouterr().out
    assert (folder / NAME).read_text().startswith("# edited")


@pytest.mark.parametrize("content", [b"my notes", b"", b"\xff\xfe", None])
def test_a_readme_of_the_user_stays(folders, content):
    draft, folder = folders
    if content is None:
        (folder / NAME).mkdir()
    else:
        (folder / NAME).write_bytes(content)
    assert published("# card\n", draft, folder) == BESIDE
    assert content is None or (folder / NAME).read_bytes() == content


def card(output_dir, last):
    facts = ModelCardData(library_name="diffusers")
    return model_card(TrainSettings(output_dir=output_dir), facts, "A LoRA.", "code", last)


def test_the_name_of_the_folder_is_text():
    lines = card("runs/<img src=x onerror=alert(1)> [a](b) `c`", {}).splitlines()
    assert "# \\<img src=x onerror=alert(1)\\> \\[a\\](b) \\`c\\`" in lines
    assert "# my_run-1.2" in card("runs/my_run-1.2", {}).splitlines()
    assert as_markdown("a\n# b") == "a \\# b"


def test_the_hub_is_told_of_what_it_knows_alone(tmp_path):
    assert hub_id("stable-diffusion-v1-5/stable-diffusion-v1-5") is not None
    assert (hub_id(str(tmp_path)), hub_id("./gone"), hub_id(None)) == (None, None, None)
    assert data_of("yuvalkirstain/pickapic_v1") == ["yuvalkirstain/pickapic_v1"]
    assert data_of(str(tmp_path)) is None
    mine = TrainSettings(output_dir="runs/a", push_to_hub=True, hub_model_id="me/a")
    assert (load_from(mine), load_from(TrainSettings(output_dir="runs/a"))) == ("me/a", "runs/a")
    facts = ModelCardData(library_name="diffusers")
    text = model_card(mine, facts, "A LoRA.", "code", {}, "me/<pairs>")
    assert "Training data: me/\\<pairs\\>" in text


def test_the_last_step_is_shown_with_four_digits_of_each_figure():
    last = {"step": 1200, "loss": 0.69314718, "rewards/margins": 1.23456e-7}
    assert "Last logged step: step 1200, loss 0.6931, rewards/margins 1.235e-07" in card("r", last)
