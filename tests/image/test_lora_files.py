"""LoRA files: what diffusers and ComfyUI read, with which numbers, and what they say."""

import json

import pytest
import torch
from diffusers import PixArtSigmaPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.image.backbones import BACKBONES, load_backbone
from diffdpo.image.export import export
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.network import make_trainable, matched, resolve_lora
from diffdpo.image.policy import load_policy
from diffdpo.image.settings import ImageSettings
from tests.image.comfy_names import kohya_keys, unet_layers

CPU = torch.device("cpu")
SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
FAMILIES = [SD, SDXL]
KINDS = {
    "plain": {},
    "alpha": {"lora_alpha": 1.0},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3.0},
    "magnitudes": {"use_dora": True},
    "other layers": {"lora_target_modules": ["to_k", "proj_in", "ff.net.2", "conv1"]},
}


def exported(model, out, **changes):
    """A network with random adapters, written as at the end of a run; backbone and network."""
    backbone = load_backbone(str(model))
    base = {"rank": 4, "resolution": 32, "pretrained_model_name_or_path": str(model)}
    settings = resolve_lora(backbone, ImageSettings(output_dir=str(out), **{**base, **changes}))
    network = make_trainable(backbone, settings, torch.float32, CPU)
    torch.manual_seed(1)
    for weight in network.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    export(backbone, network, settings, {"step": 7})
    return backbone, network


def output(family, network):
    """What a network predicts for fixed inputs."""
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, 16, 16, generator=generator)
    width = network.config.cross_attention_dim
    tokens = torch.randn(2, 7, width, generator=generator)
    added = {}
    if family == SDXL:
        added = {"text_embeds": tokens[:, 0, :32], "time_ids": torch.ones(2, 6)}
    with torch.no_grad():
        return network(noisy, 500, tokens, added_cond_kwargs=added).sample


def loaded(family, model, folder, name):
    """The network of a fresh pipeline with a LoRA file, loaded by diffusers alone."""
    pipeline = BACKBONES[family].pipeline_class.from_pretrained(model)
    pipeline.load_lora_weights(folder, weight_name=name)
    return pipeline.unet.train()


def facts(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_computes_with_each_file_what_training_did(kind, family, models, tmp_path):
    model = models(family)
    _, network = exported(model, tmp_path, **KINDS[kind])
    trained = output(family, network)
    assert not torch.equal(trained, output(family, load_backbone(str(model)).network.train()))
    assert torch.equal(output(family, loaded(family, model, tmp_path, LORA_FILE)), trained)
    if kind == "magnitudes":
        assert not (tmp_path / KOHYA_FILE).exists()
        return
    found = output(family, loaded(family, model, tmp_path, KOHYA_FILE))
    # The square root of a rank is rounded in a file's alpha.
    close = 0 if kind != "rank-stabilised" else 1e-6
    assert torch.allclose(found, trained, rtol=0, atol=close)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_reads_each_file_as_the_policy(kind, models, tmp_path):
    _, network = exported(models(), tmp_path, **KINDS[kind])
    trained = output(SD, network)
    for name in (LORA_FILE, KOHYA_FILE):
        if (tmp_path / name).exists():
            policy, reference = load_policy(load_backbone(str(models())), str(tmp_path))
            assert torch.allclose(output(SD, policy), trained, rtol=0, atol=1e-6)
            with reference.network(policy) as frozen:
                plain = load_backbone(str(models())).network.train()
                assert torch.equal(output(SD, frozen), output(SD, plain))
            (tmp_path / name).unlink()


# The attentions of the tiny UNets of the tests, of Stable Diffusion 1 and of SDXL.
TINY = unet_layers([0, 1], [1, 0], 1, 1)
PUBLISHED = {
    SD: (
        {"layers_per_block": 2, "block_out_channels": (32, 64, 64, 64)},
        unet_layers([1, 1, 1, 0], [0, 1, 1, 1], 1, 2),
    ),
    SDXL: (
        {
            "layers_per_block": 2,
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
        },
        unet_layers([0, 2, 10], [10, 2, 0], 10, 2),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "other layers"])
def test_comfyui_knows_every_key_of_the_kohya_file(kind, family, models, tmp_path):
    exported(models(family), tmp_path, **KINDS[kind])
    names = set(load_file(tmp_path / KOHYA_FILE))
    assert names
    assert not names - kohya_keys(TINY)
    assert len(names) % 3 == 0  # up, down and alpha of each layer
    # Of the file of diffusers it knows nothing, which is why there are two.
    assert not set(load_file(tmp_path / LORA_FILE)) & kohya_keys(TINY)


@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui_knows_every_layer_of_the_published_models(family):
    config, layers = PUBLISHED[family]
    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=8, attention_head_dim=8, **config)
    adapted = matched(network, BACKBONES[family].lora_targets)
    assert len(adapted) == {SD: 16, SDXL: 70}[family] * 2 * 4
    assert not adapted - layers


def test_a_file_says_what_it_is(models, tmp_path):
    exported(models(), tmp_path, lora_alpha=2.0)
    for name in (LORA_FILE, KOHYA_FILE):
        said = facts(tmp_path / name)
        assert said["ss_network_module"] == "networks.lora"
        assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2")
        assert (said["ss_base_model_version"], said["ss_steps"]) == ("sd_v1", "7")
        assert said["ss_resolution"] == "(32, 32)"
        assert said["diffdpo_base_model"] == str(models())
    peft = json.loads(facts(tmp_path / LORA_FILE)["lora_adapter_metadata"])
    assert (peft["unet.r"], peft["unet.lora_alpha"]) == (4, 2.0)
    assert peft["unet.target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_files_in_half_precision(precision, models, tmp_path):
    _, network = exported(models(), tmp_path, lora_dtype=precision)
    trained = output(SD, network)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for name in (LORA_FILE, KOHYA_FILE):
        weights = load_file(tmp_path / name)
        assert {w.dtype for n, w in weights.items() if not n.endswith("alpha")} == {wanted}
    policy, _ = load_policy(load_backbone(str(models())), str(tmp_path))
    assert {w.dtype for w in policy.parameters()} == {torch.float32}
    assert torch.allclose(output(SD, policy), trained, atol=0.05)


@pytest.mark.parametrize(
    ("form", "names"),
    [("both", {LORA_FILE, KOHYA_FILE}), ("kohya", {KOHYA_FILE}), ("diffusers", {LORA_FILE})],
)
def test_the_form_is_a_choice(form, names, models, tmp_path):
    exported(models(), tmp_path, lora_format=form)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == names
    loads = f'weight_name="{KOHYA_FILE if form == "kohya" else LORA_FILE}"'
    assert loads in (tmp_path / "README.md").read_text()


def test_kohyas_form_is_refused_where_there_is_none(models, tmp_path):
    with pytest.raises(UserError, match="--lora_format kohya: programs that read it scale DoRA"):
        exported(models(), tmp_path, lora_format="kohya", use_dora=True)


def test_a_family_that_diffusers_loads_no_lora_into_is_trained_in_full(models, monkeypatch):
    backbone = load_backbone(str(models()))
    monkeypatch.setattr(type(backbone), "pipeline_class", PixArtSigmaPipeline)
    with pytest.raises(
        UserError, match="into PixArtSigmaPipeline, so it is trained in full: leave"
    ):
        resolve_lora(backbone, ImageSettings(rank=2))
    assert resolve_lora(backbone, ImageSettings()).lora_target_modules == list(
        backbone.lora_targets
    )
