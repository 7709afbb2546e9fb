"""Networks that the first process alone reads: the others get their form, then their shares."""

import pickle

import pytest
import torch

from diffdpo.engine.load_once import hollow
from tests.engine.test_sharding import CUT, NO_CLIP, ONCE, in_shares, losses, same
from tests.text import factory, runs


def test_a_hollow_copy_has_the_form_and_no_weights():
    """Tied weights stay tied, buffers keep their values, and it can be sent."""
    network = factory.model()
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.model.norm.weight.requires_grad_(False)
    sent = pickle.dumps(hollow((None, network)))
    assert len(sent) < 4 * sum(weight.numel() for weight in network.parameters())
    nothing, copy = pickle.loads(sent)
    assert nothing is None
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    own, other = dict(network.named_parameters()), dict(copy.named_parameters())
    assert own.keys() == other.keys()
    for name, weight in own.items():
        assert other[name].is_meta
        assert not weight.is_meta
        assert other[name].requires_grad == weight.requires_grad == ("model.norm" not in name)
        assert (other[name].shape, other[name].dtype) == (weight.shape, weight.dtype)
    buffers = dict(copy.named_buffers())
    assert buffers
    for name, buffer in network.named_buffers():
        assert torch.equal(buffers[name], buffer)


def one_that_is_tied(folder, lm, data):
    """Its head is its table of embeddings."""
    network = factory.model()
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(folder)
    factory.tokenizer().save_pretrained(folder)
    return {"model_name_or_path": folder}


def one_with_an_adapter(folder, lm, data):
    """Trained further, with a copy of itself as the reference."""
    first = {"use_peft": True, "lora_r": 2, "max_train_steps": 1, "learning_rate": 1e-2}
    runs.train(*runs.flags(lm, data["pairs"], folder, **first))
    return {"model_name_or_path": folder, "use_peft": True}


def one_beside_another(folder, lm, data):
    """The reference is a model of its own."""
    factory.save_model(folder, seed=1)
    return {"ref_model_name_or_path": folder}


def an_adapter_beside_another(folder, lm, data):
    return {**one_beside_another(folder, lm, data), "use_peft": True, "mixed_precision": "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [one_that_is_tied, one_with_an_adapter, one_beside_another, an_adapter_beside_another],
)
def test_every_network_that_the_first_process_reads_comes_to_the_others(lm, data, tmp_path, made):
    changes = {**made(tmp_path / "made", lm, data), "max_train_steps": 2, **NO_CLIP}
    words = runs.flags(lm, data["pairs"], tmp_path / "two", train_batch_size=2, **changes)
    in_shares("train_text_dpo", *words, **ONCE)
    runs.train(*runs.flags(lm, data["pairs"], tmp_path / "one", **CUT, **changes))
    one, two = runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two")
    assert losses(two) == losses(one)
    for part in ("trainable", "optimizer"):
        name = f"checkpoint-2/{part}.safetensors"
        assert same(tmp_path / "one" / name, tmp_path / "two" / name)
    result = "adapter_model" if changes.get("use_peft") else "model"
    name = f"{result}.safetensors"
    assert same(tmp_path / "one" / name, tmp_path / "two" / name)
