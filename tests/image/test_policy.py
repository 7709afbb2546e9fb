"""Policies: all of their weights are used, and the reference is the model named."""

import copy as copying
import shutil
from contextlib import nullcontext

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from diffdpo.errors import UserError
from diffdpo.image.backbones import family_of
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.lora_file import LORA_FILE
from diffdpo.image.model.lora import EveryAdapterOff
from diffdpo.image.model.policy import load_policy, move
from diffdpo.image.process.noise import Diffusion
from diffdpo.image.sampling.comparison import implicit_accuracy
from diffdpo.image.sampling.sample import PictureSettings, sample
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.task import ImageTask
from tests.commands.image_runs import flags, train
from tests.factory import FAMILIES, pickapic_rows
from tests.families.work import fresh
from tests.image.test_latent_cache import pairs_of

SD, SDXL = FAMILIES
QUICK = PictureSettings(steps=2, guidance=3.0, batch=2)
LAYERS = {"unet": ["to_k", "to_q", "to_v", "to_out.0"], "text": ["q_proj", "v_proj", "out_proj"]}


def adapters(part, layers):
    """Random adapters of a part, by diffusers' names; the part keeps them."""
    part.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=layers))
    for name, weight in part.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.3)
    return convert_state_dict_to_diffusers(get_peft_model_state_dict(part))


def write_lora(folder, family, model, parts):
    """A LoRA file as other trainers write it; returns the pipeline with its adapters fused."""
    torch.manual_seed(0)
    pipeline = family_of(family).pipeline_class.from_pretrained(model)
    layers = {}
    for part in parts:
        kind = "unet" if part == "unet" else "text"
        layers[f"{part}_lora_layers"] = adapters(getattr(pipeline, part), LAYERS[kind])
    pipeline.save_lora_weights(folder, **layers)
    fused = family_of(family).pipeline_class.from_pretrained(model)
    fused.load_lora_weights(folder, weight_name=LORA_FILE)
    fused.fuse_lora(components=list(parts))
    fused.unload_lora_weights()
    return fused


def scores(backbone, model, batch):
    process = Diffusion(backbone.pipeline.scheduler)
    task = ImageTask(backbone, process, DrawSettings(0, 32), torch.device("cpu"), nullcontext)
    with torch.no_grad():
        return task.score(model, task.draw(batch(task))).score_N


PARTS = {
    "network": (SD, ["unet"]),
    "network and text": (SD, ["unet", "text_encoder"]),
    "text alone": (SD, ["text_encoder"]),
    "two encoders": (SDXL, ["unet", "text_encoder", "text_encoder_2"]),
}


@pytest.mark.parametrize("name", PARTS)
def test_adapters_of_text_encoders_are_the_policys_and_not_the_references(name, models, tmp_path):
    family, parts = PARTS[name]
    fused = write_lora(tmp_path, family, models(family), parts)
    base, backbone = fresh(models(family)), fresh(models(family))
    network, reference = load_policy(backbone, str(tmp_path))
    pairs = pairs_of(pickapic_rows(4))

    def batch(task):
        return task.collate([pairs.read(row, 0) for row in range(4)])

    process = Diffusion(backbone.pipeline.scheduler)
    task = ImageTask(
        backbone, process, DrawSettings(0, 32), torch.device("cpu"), nullcontext,
        reference.encode_prompts,
    )  # fmt: skip
    draw = task.draw(batch(task))
    with torch.no_grad():
        policy_N, frozen_N = (
            task.score(network, draw).score_N,
            reference.score(task.score, network, draw),
        )
    assert torch.allclose(frozen_N, scores(base, base.network.train(), batch), atol=1e-6)
    whole = copying.copy(base)
    whole.pipeline = fused
    assert torch.allclose(policy_N, scores(whole, fused.unet.train(), batch), atol=1e-5)
    assert not torch.allclose(policy_N, frozen_N, atol=1e-5)

    def picture(of, model):
        return sample(of, model, ["a barn"], [1], QUICK)[0].tobytes()

    with reference.network(network) as frozen:
        assert picture(backbone, frozen) == picture(base, base.network)
    assert picture(backbone, network) != picture(base, base.network)


def test_implicit_accuracy_scores_the_reference_without_text_adapters(models, tmp_path):
    """A policy whose only weights are those of a text encoder differs from its reference."""
    write_lora(tmp_path, SD, models(), ["text_encoder"])
    backbone = fresh(models())
    network, reference = load_policy(backbone, str(tmp_path))
    assert isinstance(reference, EveryAdapterOff)
    settings = EvaluateSettings(policy=str(tmp_path), resolution=32, implicit_draws=2)
    pairs = pairs_of(pickapic_rows(4))
    seen = []
    original = reference.score
    reference.score = lambda score, model, draw: (
        seen.append((score(model, draw).score_N, original(score, model, draw))) or seen[-1][1]
    )
    implicit_accuracy(settings, backbone, pairs, network, reference, torch.device("cpu"))
    assert seen
    assert not any(torch.allclose(policy, frozen) for policy, frozen in seen)


def rewritten(folder, change):
    """Save the LoRA file of a folder again with other names or numbers."""
    weights = change(load_file(folder / LORA_FILE))
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / LORA_FILE)


def nan(weights):
    next(iter(weights.values()))[0] = float("nan")
    return weights


FOREIGN = {
    "names of PEFT": (
        lambda weights: {k.removeprefix("unet."): v for k, v in weights.items()},
        r"no weights in its LoRA file fit the model \(64: down_blocks",
    ),
    "another kind of model": (
        lambda weights: {f"transformer.{k}": v for k, v in weights.items()},
        "no weights in its LoRA file fit the model",
    ),
    "an encoder that is not there": (
        lambda weights: (
            weights | {f"text_encoder_2.{k}": v for k, v in weights.items() if "attn2" in k}
        ),
        r"weights in its LoRA file have no place \(\d+: text_encoder_2",
    ),
    "a layer that is not there": (
        lambda weights: (
            weights | {k.replace("mid_block", "other_block"): v for k, v in weights.items()}
        ),
        r"unet: weights in its LoRA file have no place \(\d+: other_block",
    ),
    "NaN": (nan, "NaN or infinite weights"),
    "another width": (
        lambda weights: {k: torch.zeros(3, 3) for k in weights},
        "cannot be loaded",
    ),
    "scales of DoRA": (
        lambda weights: weights | {"unet.mid_block.attentions.0.dora_scale": torch.ones(1)},
        "scales of DoRA",
    ),
    "no weights": (lambda weights: {}, "no weights in its LoRA file|cannot be loaded"),
}


@pytest.fixture(scope="module")
def good(models, tmp_path_factory):
    """The folder of a LoRA that fits."""
    folder = tmp_path_factory.mktemp("lora")
    write_lora(folder, SD, models(), ["unet"])
    return folder


@pytest.mark.parametrize("name", FOREIGN)
def test_a_lora_that_does_not_fit_is_one_line(name, good, models, tmp_path):
    change, line = FOREIGN[name]
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    rewritten(tmp_path, change)
    with pytest.raises(UserError, match=f"--policy .*{line}") as caught:
        load_policy(fresh(models()), str(tmp_path))
    assert len(str(caught.value)) < 600


def test_a_lora_of_kohyas_names_is_the_same_policy(models, tmp_path):
    """Names with underscores and an alpha for each layer, of the network and the text encoder."""
    write_lora(tmp_path / "plain", SD, models(), ["unet", "text_encoder"])
    weights = {}
    for name, weight in load_file(tmp_path / "plain" / LORA_FILE).items():
        layer, kind = (
            name.split(".lora.") if ".lora." in name else name.split(".lora_linear_layer.")
        )
        layer = layer.replace("text_encoder.", "lora_te_text_model_" if "text_model" not in layer
                              else "lora_te_").replace("unet.", "lora_unet_")  # fmt: skip
        weights[f"{layer.replace('.', '_')}.lora_{kind}"] = weight.clone()
        weights[f"{layer.replace('.', '_')}.alpha"] = torch.tensor(2.0)
    (tmp_path / "kohya").mkdir()
    save_file(weights, tmp_path / "kohya" / LORA_FILE)
    pairs, found = pairs_of(pickapic_rows(4)), []
    for name in ("plain", "kohya"):
        backbone = fresh(models())
        network, reference = load_policy(backbone, str(tmp_path / name))
        assert len(reference.adapted) == 2
        found.append(
            scores(
                backbone, network, lambda task: task.collate([pairs.read(n, 0) for n in range(4)])
            )
        )
    assert torch.allclose(*found, atol=1e-6)


def test_a_folder_of_other_files_says_what_to_do(models, tmp_path):
    backbone = fresh(models())
    for file, line in (
        ("mine.safetensors", "if mine.safetensors is a LoRA, name it pytorch_lora_weights"),
        ("a.bin", "a.bin is pickled, and safetensors alone are read"),
    ):
        (tmp_path / file).touch()
        with pytest.raises(UserError, match=line):
            load_policy(backbone, str(tmp_path))


def test_dropout_of_an_adapter_is_off(models, tmp_path):
    torch.manual_seed(0)
    pipeline = family_of(SD).pipeline_class.from_pretrained(models())
    config = LoraConfig(r=2, lora_alpha=2, target_modules=LAYERS["unet"], lora_dropout=0.5)
    pipeline.unet.add_adapter(config)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    pipeline.save_lora_weights(
        tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=config.to_dict()
    )
    network, _ = load_policy(fresh(models()), str(tmp_path))
    rates = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert not any(rates)


def test_a_whole_policy_must_be_the_models(models, tmp_path):
    """Its UNet in all that it computes, and its text encoders."""
    good = fresh(models()).pipeline
    good.save_pretrained(tmp_path / "good")
    load_policy(fresh(models()), str(tmp_path / "good"))

    heads = fresh(models()).pipeline
    heads.unet.register_to_config(attention_head_dim=4)
    heads.save_pretrained(tmp_path / "heads")
    text = fresh(models()).pipeline
    text.text_encoder.get_input_embeddings().weight.data.add_(0.1)
    text.save_pretrained(tmp_path / "text")
    holes = tmp_path / "good" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(holes)
    weights.pop(min(weights))
    save_file(weights, holes, {"format": "pt"})
    for name, line in (
        ("heads", r"another shape than the model's \(1: attention_head_dim\)"),
        ("text", "its text_encoder is not that of the model"),
        ("good", "unet: its files lack weights"),
    ):
        with pytest.raises(UserError, match=line):
            load_policy(fresh(models()), str(tmp_path / name))


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "lora"])
def test_policy_and_reference_are_brought_to_the_device(rank, models, pairs, tmp_path):
    """Of a finished run and of a checkpoint; the meta device stands for a card."""
    train(*flags(models(SD), pairs, tmp_path, rank=rank, max_train_steps=1, checkpointing_steps=1))
    for run in (tmp_path, tmp_path / "checkpoint-1"):
        backbone = fresh(models(SD))
        network, reference = load_policy(backbone, str(run))
        move(backbone, torch.device("meta"), reference)
        with reference.network(network) as frozen:
            found = {
                weight.device.type for part in (network, frozen) for weight in part.parameters()
            }
        assert found == {"meta"}
