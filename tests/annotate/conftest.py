"""A session and a client of its page."""

import pytest

from tests.annotate.made import data_set, session
from tests.annotate.web import client


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_set(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def served(data, tmp_path):
    """A session and a client of its page."""
    made = session(tmp_path, [data])
    return made, client(made)
