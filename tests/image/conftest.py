"""Small models of the families; a test that takes ``family`` runs on every row of the table."""

import functools

import pytest

from diffdpo.image.backbones import BACKBONES
from tests.families import factory
from tests.families.work import fresh, loaded


@pytest.fixture(scope="module", params=BACKBONES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """``tiny_models(family)``: the folder of a tiny pipeline, made once a session."""

    @functools.cache
    def get(family):
        folder = tmp_path_factory.mktemp("model")
        factory(family).tiny().save_pretrained(folder)
        return folder

    return get


@pytest.fixture(scope="module")
def folder(family, tiny_models):
    return tiny_models(family)


@pytest.fixture
def backbone(folder):
    return fresh(folder)


@pytest.fixture(scope="module")
def frozen(folder):
    """One that no test changes."""
    return loaded(str(folder))
