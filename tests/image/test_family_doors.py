"""What the families of flows refuse in configurations, and what stored prompts are kept under."""

import json
from types import SimpleNamespace

import pytest
from diffusers import QwenImageTransformer2DModel

from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, family_of
from diffdpo.image.backbones.checks import check_tokenizer, on_meta
from diffdpo.image.backbones.encoder_files import text_identity
from diffdpo.image.backbones.parts import check_fit
from diffdpo.image.caching.cache_keys import EncoderDigests
from tests.families import factory, parts

QWEN = {"input_channels": 3, "z_dim": 2, "latents_mean": [0.0, 1.0], "latents_std": [1.0, 2.0]}
FLUX_2 = {"in_channels": 3, "out_channels": 3, "patch_size": [2, 2], "batch_norm_eps": 1e-4}


@pytest.mark.parametrize(
    ("family", "config", "changes", "line"),
    [
        ("QwenImagePipeline", QWEN, {"input_channels": 4}, "4 channels"),
        ("QwenImagePipeline", QWEN, {"latents_mean": [0.0]}, "latents_mean must be 2 numbers"),
        ("Krea2Pipeline", QWEN, {"latents_std": [1.0, 0.0]}, "deviations positive"),
        ("Flux2Pipeline", FLUX_2, {"in_channels": 1}, "1 channels"),
        ("Flux2Pipeline", FLUX_2, {"patch_size": [1, 1]}, "patch_size"),
        ("Flux2KleinPipeline", FLUX_2, {"batch_norm_eps": 0}, "batch_norm_eps"),
    ],
)
def test_autoencoders_that_would_be_normalised_otherwise_are_refused(family, config, changes, line):
    check = family_of(family).check_autoencoder
    check(SimpleNamespace(**config))
    with pytest.raises(UserError, match=line):
        check(SimpleNamespace(**{**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, None),
        ({"guidance_embeds": True}, "guidance_embeds"),
        ({"out_channels": 2}, "gives 2 channels of latents, the autoencoder takes 4"),
        ({"in_channels": 64}, "takes 64 channels, the autoencoder gives 16"),
        ({"use_additional_t_cond": True}, "does not take"),
        ({"joint_attention_dim": 24}, "does not take"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(changes, line):
    raw = {
        "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": [4, 6, 6],
    }  # fmt: skip
    network = on_meta(QwenImageTransformer2DModel, {**raw, **changes}, "transformer")
    latents, texts = parts.qwen_autoencoder().config, {"text_encoder": parts.qwen_vl().config}
    family = family_of("QwenImagePipeline")
    if line is None:
        check_fit(family, network, latents, texts)
    else:
        with pytest.raises(UserError, match=line):
            check_fit(family, network, latents, texts)


def test_the_layers_of_a_text_encoder_are_counted():
    pipeline = factory("Krea2Pipeline").tiny()
    pipeline.register_to_config(text_encoder_select_layers=(1,))
    with pytest.raises(UserError, match=r"text encoders: give \(1, \d+, 1, 16\)"):
        backbone_of(pipeline)


def test_the_tokenizer_of_a_processor_is_checked():
    processor = SimpleNamespace(tokenizer=parts.qwen_tokenizer())
    config = parts.qwen_vl().config
    check_tokenizer(processor, config, "tokenizer")
    config.get_text_config().vocab_size = 10
    with pytest.raises(UserError, match="knows 10"):
        check_tokenizer(processor, config, "tokenizer")


def test_stored_prompts_depend_on_all_that_encodes_them(tmp_path):
    family, index = family_of("Krea2Pipeline"), {"_class_name": "Krea2Pipeline", "layers": [1, 2]}
    for part in ("text_encoder", "tokenizer", "processor", "vae", "scheduler", "transformer"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
        index[part] = ["library", "Class"]
    seen = []

    def identity():
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        seen.append(text_identity(str(tmp_path), family, {}))
        return seen[-1]

    first = identity()
    for part in ("vae", "scheduler", "transformer"):
        (tmp_path / part / "config.json").write_text("[]")
    assert identity() == first
    for part in ("text_encoder", "tokenizer", "processor"):
        (tmp_path / part / "config.json").write_text("[]")
        assert identity() not in seen[:-1]
    index["layers"] = [1, 3]
    assert identity() not in seen[:-1]


def test_in_memory_they_depend_on_template_and_settings():
    pipeline = factory("Krea2Pipeline").tiny()
    before = EncoderDigests.loaded(backbone_of(pipeline))
    pipeline.tokenizer.chat_template = "{{ messages }}"
    after = EncoderDigests.loaded(backbone_of(pipeline))
    assert after.text_encoder != before.text_encoder
    pipeline.register_to_config(text_encoder_select_layers=(2, 1))
    assert EncoderDigests.loaded(backbone_of(pipeline)).text_encoder != after.text_encoder
    assert after.autoencoder == before.autoencoder
