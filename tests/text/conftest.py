"""What several files of these tests are about."""

import pytest

from diffdpo.config import parse
from diffdpo.text.settings import TextSettings


@pytest.fixture
def read(tmp_path):
    """Reads a text as --config, with these flags beside it."""

    def read(text, *words):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return parse(TextSettings, ["--config", str(path), *words])

    return read


@pytest.fixture(scope="module")
def draw():
    """A task of text and a batch of three pairs, drawn."""
    from tests.text.engine import OneStep
    from tests.text.factory import model, pair_rows
    from tests.text.test_task import items_of

    task = OneStep(model(), model()).task
    return task, task.draw(task.collate(items_of(pair_rows(3))))
