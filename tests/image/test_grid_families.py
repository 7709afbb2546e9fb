"""What is special in families whose transformers take latents as a grid, and in Chroma."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

from diffdpo.errors import UserError
from diffdpo.image.backbones import family_of, load_backbone
from diffdpo.image.backbones.checks import on_meta
from diffdpo.image.backbones.conditions import MASK, by_length
from diffdpo.image.backbones.parts import check_fit
from diffdpo.image.caching import cache_keys
from diffdpo.image.model.network import make_reference, make_trainable
from diffdpo.image.reading.inputs import open_pipeline
from diffdpo.image.sampling.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from tests.families import factory
from tests.families.work import fresh, inputs

FAMILIES = [
    *("SanaPipeline", "Lumina2Pipeline", "AuraFlowPipeline", "CogView4Pipeline"),
    *("PixArtSigmaPipeline", "HunyuanDiTPipeline", "ChromaPipeline"),
]


def fit(family, network=(), text=(), vae=()):
    """The check of a tiny model's configurations, some entries of which are others."""
    pipeline, kind = factory(family).tiny(), family_of(family)
    config = {k: v for k, v in pipeline.transformer.config.items() if not k.startswith("_")}
    outline = on_meta(kind.network_class, {**config, **dict(network)}, "transformer")
    configs = {name: getattr(pipeline, name).config for name in kind.encoder_names[1:]}
    for config in configs.values():
        for name, value in dict(text).items():
            setattr(config, name, value)
    latents = SimpleNamespace(**{**pipeline.vae.config, **dict(vae)})
    check_fit(kind, outline, latents, configs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_for_other_text_encoders_is_refused(family):
    fit(family)
    with pytest.raises(UserError, match="does not take what autoencoder and text encoders give"):
        fit(family, text={"hidden_size": 24})


def test_networks_and_autoencoders_that_the_pipeline_cannot_run_are_refused():
    with pytest.raises(UserError, match="patch_size 1 is not supported"):
        fit("Lumina2Pipeline", network={"patch_size": 1})
    with pytest.raises(UserError, match="gives 8 channels, the autoencoder takes 4"):
        fit("Lumina2Pipeline", network={"out_channels": 8})
    with pytest.raises(UserError, match=r"2 pixels per latent cell.*takes 8 for granted"):
        fit("Lumina2Pipeline", vae={"block_out_channels": (8, 8)})
    with pytest.raises(UserError, match=r"guidance scale as an input.*distilled"):
        fit("SanaPipeline", network={"guidance_embeds": True})
    with pytest.raises(UserError, match="learn_sigma"):
        fit("HunyuanDiTPipeline", network={"learn_sigma": False})
    with pytest.raises(UserError, match="shift_factor would be ignored"):
        fit("CogView4Pipeline", vae={"shift_factor": 0.1})


def test_a_pipeline_of_a_distilled_model_alone_is_refused(tmp_path):
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps({"_class_name": "SanaSprintPipeline"}))
    with pytest.raises(UserError, match="SanaSprintPipeline is distilled"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "resolution", "most"), [("AuraFlowPipeline", 48, 40), ("Lumina2Pipeline", 272, 256)]
)
def test_a_resolution_without_positions_is_refused(tiny_models, family, resolution, most):
    settings = ImageSettings(
        pretrained_model_name_or_path=str(tiny_models(family)), resolution=resolution
    )
    with pytest.raises(UserError, match=f"--resolution {resolution}.*{most} pixels at most"):
        open_pipeline(settings)


def test_the_shift_of_cogview4_is_that_of_its_pipeline(tiny_models):
    backbone = fresh(tiny_models("CogView4Pipeline"))
    scheduler = backbone.pipeline.scheduler
    # Two pixels a cell, two cells a patch.
    mu = calculate_shift((64 // 4) ** 2, scheduler.config.base_image_seq_len, 0.25, 0.75)
    assert backbone.own_shift(64) == pytest.approx(mu)
    scheduler.register_to_config(time_shift_type="exponential")
    assert backbone.own_shift(64) == pytest.approx(math.exp(mu))
    scheduler.register_to_config(use_dynamic_shifting=False)
    assert backbone.own_shift(64) is None


def test_cogview4_draws_for_one_prompt_at_a_time(tiny_models, monkeypatch):
    backbone = fresh(tiny_models("CogView4Pipeline"))
    called, run = [], type(backbone.pipeline).__call__
    monkeypatch.setattr(
        type(backbone.pipeline),
        "__call__",
        lambda self, **options: called.append(options["prompt"]) or run(self, **options),
    )
    settings = PictureSettings(steps=2, guidance=1.0, resolution=32)
    alone = sample(backbone, backbone.network, ["a cat"], [1], settings)
    both = sample(backbone, backbone.network, ["a cat", "a much longer prompt"], [1, 2], settings)
    assert called == [["a cat"], ["a cat"], ["a much longer prompt"]]
    assert alone[0].tobytes() == both[0].tobytes()


def test_items_are_grouped_by_the_length_of_their_prompt():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    condition = {"tokens_NLD": torch.arange(9.0).view(3, 3, 1), MASK: mask}
    (one, short), (two, long) = by_length(condition)
    assert (one, two) == ([1], [0, 2])
    assert torch.equal(short["tokens_NLD"], condition["tokens_NLD"][1:2, :1])
    assert torch.equal(long["tokens_NLD"], condition["tokens_NLD"][[0, 2]])


def test_pixart_is_loaded_under_the_name_that_its_network_had(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("PixArtSigmaPipeline"), tmp_path / "model")
    for path in (folder / "model_index.json", folder / "transformer" / "config.json"):
        text = path.read_text().replace("PixArtTransformer2DModel", "Transformer2DModel")
        assert text != path.read_text()
        path.write_text(text)
    assert json.loads(path.read_text())["_class_name"] == "Transformer2DModel"
    network = load_backbone(str(folder)).network
    assert type(network).__name__ == "PixArtTransformer2DModel"


def test_what_cleans_prompts_is_in_the_key_of_their_embeddings(monkeypatch):
    def key(family):
        backbone = SimpleNamespace(cleans_with=family_of(family).cleans_with, text_options={})
        return cache_keys.conditions(backbone)

    monkeypatch.setattr(cache_keys, "find_spec", lambda name: None)
    assert key("PixArtSigmaPipeline") == ""
    monkeypatch.setattr(cache_keys, "find_spec", lambda name: object())
    package = lambda name: SimpleNamespace(__name__=name, __version__="1.2")  # noqa: E731
    monkeypatch.setattr(cache_keys, "import_module", package)
    assert key("PixArtSigmaPipeline") == " bs4 1.2 ftfy 1.2"
    assert key("StableDiffusionPipeline") == ""


def test_a_full_fine_tune_of_sana_begins_where_its_reference_is(tiny_models):
    # Its attention hands transposed tensors to its last layer.
    backbone = fresh(tiny_models("SanaPipeline"))
    settings = ImageSettings(resolution=32, rank=None)
    network = make_trainable(backbone, settings, torch.float32, torch.device("cpu"))
    reference = make_reference(network, settings)
    call = inputs(backbone, "SanaPipeline")
    policy = backbone.predict(network, *call)
    with torch.no_grad(), reference.network(network) as frozen:
        assert torch.equal(backbone.predict(frozen, *call), policy)
