"""Every family of the table: loads by its index file, predicts, saves what its users load."""

import json
import shutil

import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.image.backbones import family_of, load_backbone
from diffdpo.image.model.export import export
from diffdpo.image.model.network import make_reference, make_trainable
from diffdpo.image.model.policy import load_policy
from diffdpo.image.sampling.sample import PictureSettings, sample, seeds_for, sheet
from diffdpo.image.settings import ImageSettings
from tests.factory import FAMILIES
from tests.families.work import fresh

CPU = torch.device("cpu")
QUICK = PictureSettings(steps=2, guidance=3.0, batch=2)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def folder(family, models):
    return models(family)


def trained(folder, tmp_path, rank):
    """A backbone whose network has been moved away from its reference."""
    name, run = str(folder), str(tmp_path / "run")
    settings = ImageSettings(
        pretrained_model_name_or_path=name, output_dir=run, rank=rank, loss_type=["sigmoid"]
    )
    backbone = fresh(folder)
    network = make_trainable(backbone, settings, torch.float32, CPU)
    reference = make_reference(network, settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    (tmp_path / "run").mkdir()
    return settings, backbone, network, reference


def inputs(backbone):
    torch.manual_seed(0)
    condition = backbone.encode_prompts(["a cat", ""])
    ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
    extra = {"time_ids_N6": ids} if backbone.size_condition([], 32) != {} else {}
    return torch.randn(2, 4, 16, 16), torch.tensor([3, 700]), {**condition, **extra}


def test_the_family_is_told_by_the_index_and_not_by_the_path(family, folder, tmp_path):
    misleading = tmp_path / "sdxl-turbo-refiner"
    shutil.copytree(folder, misleading)
    backbone = load_backbone(str(misleading))
    assert type(backbone) is family_of(family)
    assert (backbone.pixel_factor, backbone.native_resolution) == (2, 32)


def test_prediction_keeps_the_shape(folder):
    backbone = fresh(folder)
    noisy, timestep, condition = inputs(backbone)
    with torch.no_grad():
        assert backbone.predict(backbone.network, noisy, timestep, condition).shape == noisy.shape


@pytest.mark.parametrize("rank", [None, 4])
def test_the_reference_is_the_network_as_it_was(folder, tmp_path, rank):
    _, backbone, network, reference = trained(folder, tmp_path, rank)
    call = inputs(backbone)
    untouched = fresh(folder)
    with torch.no_grad(), reference.network(network) as frozen:
        actual = backbone.predict(frozen, *call)
        expected = untouched.predict(untouched.network.train(), *call)
        assert torch.equal(actual, expected)
    with torch.no_grad():
        assert not torch.allclose(backbone.predict(network, *call), expected)
    assert any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("rank", [None, 4])
def test_a_result_loads_back_to_the_same_function(folder, tmp_path, rank):
    settings, backbone, network, _ = trained(folder, tmp_path, rank)
    call = inputs(backbone)
    with torch.no_grad():
        expected = backbone.predict(network.eval(), *call)
    export(backbone, network, settings, {"step": 3, "loss": 0.5})
    again = fresh(folder)
    policy, reference = load_policy(again, str(tmp_path / "run"))
    with torch.no_grad():
        assert torch.allclose(again.predict(policy.eval(), *call), expected, atol=1e-5)
        with reference.network(policy) as frozen:
            assert not torch.allclose(again.predict(frozen, *call), expected, atol=1e-5)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"of `{folder}`" in card
    assert "base_model" not in card  # a path on this disk, which the hub refuses


def test_a_full_result_is_a_pipeline_of_the_same_class(family, folder, tmp_path):
    settings, backbone, network, _ = trained(folder, tmp_path, None)
    export(backbone, network, settings, {})
    loaded = family_of(family).pipeline_class.from_pretrained(tmp_path / "run")
    weights = zip(loaded.unet.state_dict().values(), network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert not list((tmp_path / "run").glob("**/*.bin"))


def test_half_precision_base_keeps_float32_adapters(folder):
    settings = ImageSettings(rank=2)
    network = make_trainable(fresh(folder), settings, torch.bfloat16, CPU)
    kinds = {weight.requires_grad: weight.dtype for weight in network.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_pictures_depend_on_prompt_and_seed_alone(folder):
    backbone = fresh(folder)
    prompts, seeds = ["a", "b", "c"], [1, 2, 3]
    together = sample(backbone, backbone.network, prompts, seeds, QUICK)
    alone = sample(backbone, backbone.network, prompts[2:], seeds[2:], QUICK)
    difference = [
        abs(a - b) for a, b in zip(together[2].tobytes(), alone[0].tobytes(), strict=True)
    ]
    assert max(difference) <= 1  # rounding to 8 bits after another batch size
    assert together[0].tobytes() != together[1].tobytes()
    assert together[0].size == (32, 32)


def test_unknown_layers_for_adapters_are_named(folder):
    settings = ImageSettings(rank=2, lora_target_modules=["no_such_layer"])
    with pytest.raises(UserError, match="no_such_layer"):
        make_trainable(fresh(folder), settings, torch.float32, CPU)


def test_unet_init_replaces_the_start(folder, tmp_path):
    settings, backbone, network, _ = trained(folder, tmp_path, None)
    export(backbone, network, settings, {})
    again = ImageSettings(unet_init=str(tmp_path / "run"))
    started = make_trainable(fresh(folder), again, torch.float32, CPU)
    assert torch.equal(started.conv_in.weight, network.conv_in.weight)
    with pytest.raises(UserError, match="no UNet there"):
        make_trainable(fresh(folder), ImageSettings(unet_init="/nowhere"), torch.float32, CPU)


def test_bad_models_are_one_line(models, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_backbone(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"model_index\.json"):
        load_backbone(str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(models(), copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(str(copy))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "KolorsPipeline"}))
    with pytest.raises(
        UserError, match=r"KolorsPipeline is not supported; these are: StableDiffusionPipeline"
    ):
        load_backbone(str(copy))
    with pytest.raises(UserError, match="did its run finish"):
        load_policy(fresh(models()), str(tmp_path))


def test_sheets_and_seeds():
    from tests.factory import picture

    page = sheet([("a very long caption " * 9, [picture(0), picture(1)])], ["reference", "policy"])
    assert page.size == (190 + 256, 24 + 128)
    assert seeds_for(0, 5) == seeds_for(0, 9)[:5]
    assert len(set(seeds_for(1, 100))) == 100


def test_a_pipeline_without_t5_trains_and_is_saved_without_it(tmp_path):
    from tests.families.stable_diffusion_3 import tiny

    pipeline = tiny()
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path / "model")
    name, run = str(tmp_path / "model"), str(tmp_path / "run")
    backbone = load_backbone(name)
    tokens = backbone.encode_prompts(["a cat"])["tokens_NLD"]
    assert not tokens[:, 16:].any()  # the pipeline's zeros in the place of T5's tokens
    settings = ImageSettings(pretrained_model_name_or_path=name, output_dir=run)
    export(backbone, backbone.network, settings, {})
    again = load_backbone(run)
    assert torch.equal(again.encode_prompts(["a cat"])["tokens_NLD"], tokens)
