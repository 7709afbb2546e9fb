"""What of a model is in memory, when, and in which precision."""

import gc
import shutil
import weakref

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset

from diffdpo.commands.train_diffusion_dpo import ImageObjects, prepare_encodings, prepare_images
from diffdpo.engine.accelerator import usable_precision
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, load_backbone, load_trained
from diffdpo.image.backbones.base import in_precision
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.model.network import make_trainable
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.reading.inputs import open_to_sample
from diffdpo.image.settings import ImageSettings
from tests.factory import FAMILIES, pickapic_rows

CPU = torch.device("cpu")
SD3 = "StableDiffusion3Pipeline"


@pytest.fixture(scope="module")
def sd3(tiny_models):
    return tiny_models(SD3)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


class Loads:
    """The networks that are loaded, in their order, each with those in memory at that time."""

    def __init__(self, monkeypatch):
        from diffdpo.image.backbones import parts

        self.alive, self.seen = weakref.WeakValueDictionary(), []
        load = parts.load_network

        def spied(kind, what, *rest, **options):
            gc.collect()
            self.seen.append((what, sorted(self.alive)))
            self.alive[what] = network = load(kind, what, *rest, **options)
            return network

        monkeypatch.setattr(parts, "load_network", spied)

    @property
    def now(self):
        gc.collect()
        return sorted(self.alive)


@pytest.fixture
def loads(monkeypatch):
    return Loads(monkeypatch)


def settings_of(folder, root, **changes):
    return ImageSettings(
        pretrained_model_name_or_path=str(folder), dataset_name="given", resolution=32, rank=2,
        loss_type=["sigmoid"], precompute_dir=str(root), **changes,
    )  # fmt: skip


ROWS = ImageObjects(Dataset.from_list(pickapic_rows(4)))
TEXTS = ["text_encoder", "text_encoder_2", "text_encoder_3"]


def test_only_one_of_encoders_autoencoder_and_network_is_in_memory(
    sd3, tmp_path, accelerator, loads
):
    settings = settings_of(sd3, tmp_path, cache_latents=True)
    run = prepare_images(settings, accelerator, ROWS)
    assert loads.seen == [
        ("text_encoder", []),
        ("text_encoder_2", ["text_encoder"]),
        ("text_encoder_3", ["text_encoder", "text_encoder_2"]),
        ("vae", []),
        ("transformer", []),
    ]
    assert loads.now == ["transformer"]
    # What it computes is what a model that is loaded whole computes.
    whole = prepare_images(settings_of(sd3, tmp_path), accelerator, ROWS)
    scores = []
    for one in (run, whole):
        draw = one.task.draw(one.task.collate([one.pairs.read(row, 0) for row in range(3)]))
        with torch.no_grad():
            scores.append(one.task.score(one.network.train(), draw).score_N)
    assert torch.allclose(*scores, rtol=1e-5)


def test_what_is_stored_is_not_loaded_again(sd3, tmp_path, accelerator, loads):
    settings = settings_of(sd3, tmp_path, cache_latents=True)
    prepare_encodings(settings, accelerator, ROWS)  # all that precomputing does without scores
    assert [what for what, _ in loads.seen] == [*TEXTS, "vae"]
    assert loads.now == []
    loads.seen.clear()
    prepare_images(settings, accelerator, ROWS)
    assert loads.seen == [("transformer", [])]
    loads.seen.clear()
    rows = pickapic_rows(4)
    for row in rows:
        row["caption"] += "!"
    prepare_encodings(settings, accelerator, ImageObjects(Dataset.from_list(rows)))
    assert [what for what, _ in loads.seen] == TEXTS


def test_a_network_that_is_left_out_has_no_memory(sd3):
    backbone = load_backbone(str(sd3), network=False)
    assert all(weight.is_meta for weight in backbone.network.parameters())
    expected = load_backbone(str(sd3))
    for name, value in backbone.encode_prompts(["a cat", ""]).items():
        assert torch.equal(value, expected.encode_prompts(["a cat", ""])[name])
    load_trained(backbone)
    loaded, own = backbone.network, expected.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    load_trained(backbone)
    assert backbone.network is loaded  # what is loaded stays


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_in_half_precision_is_loading_and_casting(models, family):
    """Bit for bit, with an adapter on it."""
    name, settings, dtype = str(models(family)), ImageSettings(rank=2), torch.bfloat16
    straight = make_trainable(load_backbone(name, dtype=dtype), settings, dtype, CPU)
    cast = load_backbone(name)
    assert cast.network.dtype == torch.float32
    make_trainable(cast, settings, dtype, CPU)
    first, second = straight.state_dict(), cast.network.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {weight.dtype for weight in first.values()} == {dtype, torch.float32}
    texts = load_backbone(name, encoder_dtype=dtype)
    casts = load_backbone(name)
    casts.move_encoders(CPU, dtype)
    for one, other in zip(texts.text_encoders(), casts.text_encoders(), strict=True):
        own = other.state_dict()
        assert all(torch.equal(own[key], value) for key, value in one.state_dict().items())


@pytest.mark.parametrize("rank", [2, None])
def test_the_precision_of_a_run_is_that_of_loading(models, tmp_path, rank, monkeypatch):
    from diffdpo.image.backbones import parts

    dtypes, load = {}, parts.load_network

    def spied(kind, what, source, variant=None, dtype=torch.float32, **options):
        dtypes[what] = dtype
        return load(kind, what, source, variant, dtype, **options)

    monkeypatch.setattr(parts, "load_network", spied)
    settings = settings_of(models(), tmp_path, cache_latents=True)
    settings = settings.__class__(**{**vars(settings), "rank": rank})
    half = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "mixed_precision", "bf16")
    network = prepare_images(settings, half, ROWS).network
    assert dtypes["unet"] == (torch.bfloat16 if rank else torch.float32)
    assert dtypes["text_encoder"] == torch.bfloat16
    assert dtypes["vae"] == torch.float32  # and cast afterwards: many overflow in float16
    trained = {weight.dtype for weight in network.parameters() if weight.requires_grad}
    assert trained == {torch.float32}


def test_kept_layers_stay_in_float32():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2).bfloat16(), torch.nn.LayerNorm(2))
    assert in_precision(module, torch.bfloat16)[1].weight.dtype == torch.float32
    assert {weight.dtype for weight in in_precision(module, torch.float32).parameters()} == {
        torch.float32
    }


def test_a_pipeline_in_memory_takes_the_precision_too(sd3):
    pipeline = load_backbone(str(sd3)).pipeline
    backbone = backbone_of(pipeline, dtype=torch.bfloat16, encoder_dtype=torch.bfloat16)
    assert {weight.dtype for weight in backbone.network.parameters()} == {torch.bfloat16}
    assert {encoder.dtype for encoder in backbone.text_encoders()} == {torch.bfloat16}
    assert backbone.vae.dtype == torch.float32


@pytest.mark.parametrize("kind", [EvaluateSettings, PairSettings])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(None, torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float32)],
)
def test_sampling_loads_the_model_in_its_precision(sd3, kind, precision, dtype, capsys):
    settings = kind(
        pretrained_model_name_or_path=str(sd3), dataset_name="given", mixed_precision=precision
    )
    settings, backbone = open_to_sample(settings, CPU)
    for module in (backbone.network, backbone.vae, *backbone.text_encoders()):
        assert {weight.dtype for weight in module.parameters()} == {dtype}
    assert settings.mixed_precision == ("bf16" if dtype == torch.bfloat16 else "no")
    assert ("needs a GPU" in capsys.readouterr().out) == (precision == "fp16")
    assert usable_precision("fp16", cpu=False) == "fp16"


def test_a_part_that_is_damaged_is_told_when_it_is_loaded(sd3, tmp_path, accelerator):
    folder = tmp_path / "damaged"
    shutil.copytree(sd3, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    backbone = load_backbone(str(folder), encoders=False, network=False)
    with pytest.raises(UserError, match=rf"model {folder}: transformer: cannot be loaded"):
        load_trained(backbone)
