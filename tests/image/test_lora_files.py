"""LoRA files: what diffusers and ComfyUI read, with which numbers, and what they say."""

import json

import pytest
import torch
from diffusers import PixArtSigmaPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.image.backbones import BACKBONES, family_of
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.model.export import export
from diffdpo.image.model.network import make_trainable, matched, resolve_lora
from diffdpo.image.model.policy import load_policy
from diffdpo.image.settings import ImageSettings
from tests.families.work import fresh, inputs
from tests.image.comfy_names import (
    diffusers_keys,
    flux_layers,
    kohya_keys,
    sd3_layers,
    unet_layers,
)

CPU = torch.device("cpu")
SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
UNETS = [SD, SDXL]
WITH_LORA = [
    name for name in BACKBONES if hasattr(family_of(name).pipeline_class, "save_lora_weights")
]
KINDS = {
    "plain": {},
    "alpha": {"lora_alpha": 1.0},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3.0},
    "magnitudes": {"use_dora": True},
    "other layers": {"lora_target_modules": ["to_k", "proj_in", "ff.net.2", "conv1"]},
}


@pytest.fixture(scope="module")
def folders(tiny_models):
    """``folders(family)``: the folder of a tiny pipeline."""
    return lambda family=SD: tiny_models(family)


def exported(model, out, **changes):
    """A backbone whose network has random adapters, written as at the end of a run."""
    backbone = fresh(model)
    base = {"rank": 4, "resolution": 32, "pretrained_model_name_or_path": str(model)}
    settings = resolve_lora(backbone, ImageSettings(output_dir=str(out), **{**base, **changes}))
    network = make_trainable(backbone, settings, torch.float32, CPU).train()
    torch.manual_seed(1)
    for weight in network.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    export(backbone, network, settings, {"step": 7})
    return backbone


def output(backbone, family=SD):
    """What a backbone's network, with its adapters as they are, predicts for fixed inputs."""
    # Of an input that lies transposed in memory, products with weights to train round otherwise.
    trained = [weight for weight in backbone.network.parameters() if weight.requires_grad]
    backbone.network.requires_grad_(False)
    with torch.no_grad():
        result = backbone.predict(backbone.network, *inputs(backbone, family))
    for weight in trained:
        weight.requires_grad_(True)
    return result


def in_train_mode(backbone):
    backbone.network.train()
    return backbone


def facts(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


# Every kind for one family, and for every family what is not the default.
CASES = [(SD, kind) for kind in KINDS] + [(name, "alpha") for name in WITH_LORA if name != SD]
CASES += [("StableDiffusion3Pipeline", "magnitudes")]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_diffusers_and_we_compute_with_each_file_what_training_did(family, kind, folders, tmp_path):
    model = folders(family)
    trained = output(exported(model, tmp_path, **KINDS[kind]), family)
    assert (tmp_path / KOHYA_FILE).exists() == (family in UNETS and kind != "magnitudes")
    # The square root of a rank is rounded in the alpha of a file of kohya's form.
    close = {"rtol": 0, "atol": 1e-6 if kind == "rank-stabilised" else 0}
    for name in filter(lambda name: (tmp_path / name).exists(), (LORA_FILE, KOHYA_FILE)):
        backbone = fresh(model)
        plain = output(in_train_mode(backbone), family)
        assert not torch.equal(trained, plain)
        policy, reference = load_policy(backbone, str(tmp_path))
        assert torch.allclose(output(backbone, family), trained, **close)
        with reference.network(policy):
            # Layers that have an adapter, switched off, round otherwise in Sana.
            assert torch.allclose(output(backbone, family), plain, rtol=0, atol=1e-5)
        pipeline = fresh(model).pipeline
        pipeline.load_lora_weights(tmp_path, weight_name=name)
        setattr(backbone.pipeline, backbone.part, getattr(pipeline, backbone.part).train())
        found = output(backbone, family)
        assert torch.equal(found, trained) if name == LORA_FILE else True
        assert torch.allclose(found, trained, **close)
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


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("kind", ["plain", "other layers"])
def test_comfyui_knows_every_key_of_the_kohya_file(kind, family, folders, tmp_path):
    exported(folders(family), tmp_path, **KINDS[kind])
    names = set(load_file(tmp_path / KOHYA_FILE))
    assert names
    assert not names - kohya_keys(TINY)
    assert len(names) % 3 == 0  # up, down and alpha of each layer
    # Of the file of diffusers it knows nothing, which is why there are two.
    assert not set(load_file(tmp_path / LORA_FILE)) & kohya_keys(TINY)


TRANSFORMERS = {
    "StableDiffusion3Pipeline": sd3_layers(2),
    "FluxPipeline": flux_layers(1, 1),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_comfyui_knows_every_key_of_a_transformers_file(family, folders, tmp_path):
    exported(folders(family), tmp_path)
    names = set(load_file(tmp_path / LORA_FILE))
    assert names
    assert not names - diffusers_keys(TRANSFORMERS[family])
    assert not (tmp_path / KOHYA_FILE).exists()


@pytest.mark.parametrize("family", UNETS)
def test_comfyui_knows_every_layer_of_the_published_models(family):
    config, layers = PUBLISHED[family]
    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=8, attention_head_dim=8, **config)
    adapted = matched(network, family_of(family).lora_targets)
    assert len(adapted) == {SD: 16, SDXL: 70}[family] * 2 * 4
    assert not adapted - layers


def test_a_file_says_what_it_is(folders, tmp_path):
    exported(folders(), tmp_path, lora_alpha=2.0)
    for name in (LORA_FILE, KOHYA_FILE):
        said = facts(tmp_path / name)
        assert said["ss_network_module"] == "networks.lora"
        assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2")
        assert (said["ss_base_model_version"], said["ss_steps"]) == ("sd_v1", "7")
        assert said["ss_resolution"] == "(32, 32)"
        assert said["diffdpo_base_model"] == str(folders())
    peft = json.loads(facts(tmp_path / LORA_FILE)["lora_adapter_metadata"])
    assert (peft["unet.r"], peft["unet.lora_alpha"]) == (4, 2.0)
    assert peft["unet.target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_files_in_half_precision(precision, folders, tmp_path):
    backbone = exported(folders(), tmp_path, lora_dtype=precision)
    trained = output(backbone)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for name in (LORA_FILE, KOHYA_FILE):
        weights = load_file(tmp_path / name)
        assert {w.dtype for n, w in weights.items() if not n.endswith("alpha")} == {wanted}
    again = fresh(folders())
    policy, _ = load_policy(again, str(tmp_path))
    assert {w.dtype for w in policy.parameters()} == {torch.float32}
    assert torch.allclose(output(again), trained, atol=0.05)


@pytest.mark.parametrize(
    ("form", "names"),
    [("both", {LORA_FILE, KOHYA_FILE}), ("kohya", {KOHYA_FILE}), ("diffusers", {LORA_FILE})],
)
def test_the_form_is_a_choice(form, names, folders, tmp_path):
    exported(folders(), tmp_path, lora_format=form)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == names
    loads = f'weight_name="{KOHYA_FILE if form == "kohya" else LORA_FILE}"'
    assert loads in (tmp_path / "README.md").read_text()


def test_kohyas_form_is_refused_where_there_is_none(folders, tmp_path):
    with pytest.raises(UserError, match="--lora_format kohya: programs that read it scale DoRA"):
        exported(folders(), tmp_path, lora_format="kohya", use_dora=True)


def test_a_family_that_diffusers_loads_no_lora_into_is_trained_in_full(folders, monkeypatch):
    backbone = fresh(folders())
    monkeypatch.setattr(type(backbone), "pipeline_class", PixArtSigmaPipeline)
    with pytest.raises(
        UserError, match="into PixArtSigmaPipeline, so it is trained in full: leave"
    ):
        resolve_lora(backbone, ImageSettings(rank=2))
    assert resolve_lora(backbone, ImageSettings()).lora_target_modules == list(
        backbone.lora_targets
    )
