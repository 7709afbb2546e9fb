"""``--max_sequence_length``: one length of the text in training, sampling and stored embeddings."""

from functools import wraps

import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.image.backbones import BACKBONES, family_of
from diffdpo.image.caching.cache_keys import EncoderDigests
from diffdpo.image.reading.inputs import open_pipeline
from diffdpo.image.sampling.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from tests.families import side
from tests.families.work import fresh, loaded

LENGTH = 5


CHOOSING = [name for name in BACKBONES if family_of(name).text_length_is_free()]
FIXED = [name for name in BACKBONES if name not in CHOOSING]


@pytest.fixture
def folder(family, tiny_models):
    return str(tiny_models(family))


@pytest.mark.parametrize("family", CHOOSING)
def test_pictures_are_sampled_with_the_text_that_is_trained_on(folder, family, monkeypatch):
    settings = ImageSettings(
        pretrained_model_name_or_path=folder,
        dataset_name="pairs",
        resolution=side(family),
        max_sequence_length=LENGTH,
    )
    backbone = open_pipeline(settings)[1]
    encode, encoded = backbone.pipeline.encode_prompt, []

    @wraps(encode)
    def spied(*rest, **options):
        encoded.append(encode(*rest, **options))
        return encoded[-1]

    monkeypatch.setattr(backbone.pipeline, "encode_prompt", spied)
    pictures = PictureSettings(2, backbone.guidance_off, 1, side(family))
    prompt = "a prompt of more than so many tokens"
    sample(backbone, backbone.network, [prompt], [0], pictures)
    name, place = next(iter(backbone.prompt_outputs.items()))
    trained = backbone.encode_prompts([prompt])[name]
    (row,), (stored,) = encoded[0][place], encoded[-1][place]
    assert torch.equal(row, stored)
    whole = loaded(folder).encode_prompts([prompt])[name]
    assert trained.shape[1] < whole.shape[1]


@pytest.mark.parametrize("family", CHOOSING[:1])
def test_stored_embeddings_of_another_length_are_not_read(folder, family):
    backbone = fresh(folder)

    def digests():
        of_files = EncoderDigests.of(backbone, folder, None, {}, torch.float32, torch.device("cpu"))
        return of_files, EncoderDigests.loaded(backbone)

    before = digests()
    backbone.limit_text(LENGTH)
    for one, other in zip(before, digests(), strict=True):
        assert one.text_encoder != other.text_encoder
        assert one.autoencoder == other.autoencoder


@pytest.mark.parametrize("family", FIXED)
def test_a_family_whose_prompts_have_one_length_refuses_another(folder, family):
    with pytest.raises(UserError, match=r"--max_sequence_length 5: .* one length; leave it out"):
        loaded(folder).limit_text(LENGTH)
