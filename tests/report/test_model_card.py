"""The card of a result comes beside a README.md of the user's, not in its place."""

import pytest

from diffdpo.report.model_card import BESIDE, NAME, write_card


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
