"""``--max_sequence_length``: one length of the text in training, sampling and stored embeddings."""

import inspect
from functools import wraps

import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.image.backbones import BACKBONES, family_of, load_backbone
from diffdpo.image.cache_keys import EncoderDigests
from diffdpo.image.inputs import open_pipeline
from diffdpo.image.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from tests.families import factory, side

LENGTH = 5


def call_of(family):
    return inspect.signature(family_of(family).pipeline_class.__call__).parameters


CHOOSING = [name for name in BACKBONES if "max_sequence_length" in call_of(name)]
FIXED = [name for name in BACKBONES if name not in CHOOSING]


@pytest.fixture
def folder(family, tmp_path):
    factory(family).tiny().save_pretrained(tmp_path)
    return str(tmp_path)


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
    trained = backbone.encode_prompts([prompt])["tokens_NLD"]
    place = backbone.prompt_outputs["tokens_NLD"]
    (row,), (stored,) = encoded[0][place], encoded[-1][place]
    assert torch.equal(row, stored)
    whole = load_backbone(folder).encode_prompts([prompt])["tokens_NLD"]
    assert trained.shape[1] < whole.shape[1]


@pytest.mark.parametrize("family", CHOOSING[:1])
def test_stored_embeddings_of_another_length_are_not_read(folder, family):
    backbone = load_backbone(folder)

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
        load_backbone(folder).limit_text(LENGTH)
