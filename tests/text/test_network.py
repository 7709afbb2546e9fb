"""What is trained and what it is compared with: LoRA, all weights, another model, and a continued
SFT adapter."""

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from diffdpo.errors import UserError
from diffdpo.reference import (
    AdapterCopy,
    AdapterOff,
    FrozenCopy,
    OtherModel,
    Zero,
    without_dropout,
)
from diffdpo.text.model.adapters import is_adapter
from diffdpo.text.model.loading import load_model, load_tokenizer
from diffdpo.text.model.network import make_reference, make_trainable
from diffdpo.text.settings import TextSettings
from tests.text.factory import model, save_model, tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), dropout=0.3)


@pytest.fixture(scope="module")
def sft(base, tmp_path_factory):
    """An adapter that says something else than its base."""
    folder = tmp_path_factory.mktemp("sft")
    network = AutoModelForCausalLM.from_pretrained(base)
    network.add_adapter(
        LoraConfig(
            r=4,
            target_modules=["q_proj", "down_proj"],
            init_lora_weights=False,  # or the adapter would be the identity, and equal to its base
            lora_dropout=0.4,
        )
    )
    network.save_pretrained(folder)
    return folder


def prepared(name, **settings):
    settings = TextSettings(model_name_or_path=str(name), **settings)
    network = load_model(str(name), "model_name_or_path", settings)
    scorer = make_trainable(network, settings, CPU)
    return scorer, make_reference(scorer, settings, reference_free=False)


def both(scorer, reference, draw):
    task, drawn = draw
    with torch.no_grad():
        return task.score(scorer, drawn).score_N, reference.score(task.score, scorer, drawn)


def nudge(scorer):
    """Change every trained weight, as a step of training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in scorer.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)


@pytest.mark.parametrize(("kind", "settings"), [(FrozenCopy, {}), (AdapterOff, {"use_peft": True})])
def test_policy_and_reference_start_equal_and_part(base, draw, kind, settings):
    scorer, reference = prepared(base, **settings)
    assert type(reference) is kind
    assert reference.starts_equal
    policy, frozen = both(scorer.train(), reference, draw)
    assert torch.equal(policy, frozen)
    nudge(scorer)
    moved, still = both(scorer, reference, draw)
    assert torch.equal(still, frozen)
    assert not torch.allclose(moved, policy)


@pytest.mark.parametrize("name", ["use_rslora", "use_dora"])
def test_loras_of_other_forms_start_at_the_reference_and_part_in_their_own_way(base, draw, name):
    scorer, reference = prepared(base, use_peft=True, **{name: True})
    plain, _ = prepared(base, use_peft=True)
    policy, frozen = both(scorer, reference, draw)
    # DoRA divides a weight by its length and multiplies by the same number, which may round.
    assert torch.allclose(policy, frozen, rtol=1e-5)
    for changed in (scorer, plain):
        torch.manual_seed(1)
        with torch.no_grad():
            for weight_name, weight in changed.named_parameters():
                if "lora_A" in weight_name or "lora_B" in weight_name:
                    weight += 0.1 * torch.randn_like(weight)
    moved, still = both(scorer, reference, draw)
    other, _ = both(plain, reference, draw)
    assert torch.equal(still, frozen)
    assert not torch.allclose(moved, other)


def test_an_sft_adapter_trained_further_keeps_itself_as_reference(base, sft, draw):
    """Neither the bare base, the silent mistake of others, nor the adapter in its present state."""
    scorer, reference = prepared(sft)
    assert type(reference) is AdapterCopy
    assert all("lora" in name for name, w in scorer.named_parameters() if w.requires_grad)
    policy, frozen = both(scorer, reference, draw)
    bare, _ = both(*prepared(base), draw)
    assert torch.equal(policy, frozen)
    assert not torch.allclose(frozen, bare, rtol=1e-3)
    nudge(scorer)
    moved, still = both(scorer, reference, draw)
    assert torch.equal(still, frozen)
    assert not torch.allclose(moved, policy, rtol=1e-3)


def test_no_dropout_is_left_in_a_loaded_adapter_or_its_copy(base, sft, draw):
    scorer, reference = prepared(sft)
    scorer.train()
    rates = [layer.p for layer in scorer.modules() if isinstance(layer, torch.nn.Dropout)]
    assert rates
    assert set(rates) == {0.0}
    assert torch.equal(*both(scorer, reference, draw))
    assert torch.equal(both(scorer, reference, draw)[1], both(scorer, reference, draw)[1])


def falcon():
    return FalconForCausalLM(
        FalconConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_dropout=0.5,
            attention_dropout=0.5,
        )
    )


def opt():
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=64,
            hidden_size=32,
            ffn_dim=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            layerdrop=0.5,
            dropout=0.5,
        )
    )


def mixtral():
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            router_jitter_noise=0.5,
            attention_dropout=0.5,
        )
    )


@pytest.mark.parametrize("make", [falcon, opt, mixtral])
def test_rates_that_are_read_from_the_configuration_are_off_and_kept_in_the_result(make, tmp_path):
    torch.manual_seed(0)
    network, ids = make().train(), torch.arange(8)[None]
    # Without this the rates could be off from the start and the test would see nothing.
    assert not torch.equal(network(ids).logits, network(ids).logits)
    rates = {k: v for k, v in network.config.to_dict().items() if "drop" in k}
    without_dropout(network)
    assert torch.equal(network(ids).logits, network(ids).logits)
    network.save_pretrained(tmp_path)
    saved = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {name: saved[name] for name in rates} == rates


class Noisy(torch.nn.Module):
    """A layer that draws numbers in training and is no dropout by name, as a router's jitter."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (1 + 0.1 * torch.rand_like(x[..., :1]) * self.training)


@pytest.mark.parametrize("settings", [{}, {"use_peft": True}])
def test_a_network_that_draws_numbers_of_its_own_is_refused(base, settings):
    settings = TextSettings(model_name_or_path=str(base), **settings)
    network = load_model(str(base), "model_name_or_path", settings)
    network.model.layers[0].mlp = Noisy(network.model.layers[0].mlp).eval()
    with pytest.raises(UserError, match="two passes over the same tokens differ by"):
        make_trainable(network, settings, CPU)


def test_a_reference_with_noise_is_refused(base, monkeypatch):
    def load(*words):
        network = load_model(*words)
        network.model.layers[0].mlp = Noisy(network.model.layers[0].mlp).eval()
        return network

    scorer, _ = prepared(base)
    monkeypatch.setattr("diffdpo.text.model.network.load_model", load)
    settings = TextSettings(model_name_or_path=str(base), ref_model_name_or_path=str(base))
    with pytest.raises(UserError, match="two passes over the same tokens differ by"):
        make_reference(scorer, settings, reference_free=False)


def test_switching_adapters_leaves_the_trained_one_active_and_trainable(sft, draw):
    scorer, reference = prepared(sft)
    before = {name for name, w in scorer.named_parameters() if w.requires_grad}
    assert before
    assert not any(AdapterCopy.frozen in name for name in before)
    both(scorer, reference, draw)
    assert {name for name, w in scorer.named_parameters() if w.requires_grad} == before
    assert scorer.network.active_adapters() == [AdapterCopy.trained]
    task, drawn = draw
    task.score(scorer, drawn).score_N.sum().backward()
    # Scoring the reference has switched adapters; the gradient must go to the trained one alone.
    touched = {name for name, w in scorer.named_parameters() if w.grad is not None}
    assert touched == before


def test_another_model_as_reference(base, tmp_path, draw):
    other = save_model(tmp_path / "other", seed=5)
    scorer, reference = prepared(base, ref_model_name_or_path=str(other))
    assert isinstance(reference, OtherModel)
    assert not reference.starts_equal
    _, frozen = both(scorer, reference, draw)
    expected, _ = both(*prepared(other), draw)
    assert torch.equal(frozen, expected)


def test_losses_without_reference_have_none(base):
    scorer, _ = prepared(base)
    assert isinstance(make_reference(scorer, TextSettings(), reference_free=True), Zero)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_trained_weights_are_float32_and_frozen_ones_follow_the_precision(base, precision):
    scorer, _ = prepared(base, use_peft=True, mixed_precision=precision)
    frozen = torch.bfloat16 if precision == "bf16" else torch.float32
    for weight in scorer.parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else frozen)
    full, _ = prepared(base, mixed_precision=precision)
    assert {weight.dtype for weight in full.parameters()} == {torch.float32}


def test_the_tokenizer_of_an_adapter_is_that_of_its_base(base, sft):
    settings = TextSettings(model_name_or_path=str(sft))
    network = load_model(str(sft), "model_name_or_path", settings)
    assert is_adapter(network)
    loaded = load_tokenizer(network, settings)
    assert loaded("the end")["input_ids"] == tokenizer()("the end")["input_ids"]


def test_mistakes(base, tmp_path):
    with pytest.raises(UserError, match="--model_name_or_path /no/such: cannot be loaded"):
        prepared("/no/such")
    with pytest.raises(UserError, match="--lora_target_modules to_q"):
        prepared(base, use_peft=True, lora_target_modules=["to_q"])
    with pytest.raises(UserError, match="--lora_target_modules to_q: no module has this name"):
        prepared(base, use_peft=True, lora_target_modules=["to_q", "v_proj"])
    with pytest.raises(UserError, match="--ref_model_name_or_path /no/such: cannot be loaded"):
        prepared(base, ref_model_name_or_path="/no/such")
    model().save_pretrained(tmp_path)
    settings = TextSettings(model_name_or_path=str(tmp_path))
    with pytest.raises(UserError, match="no tokenizer there"):
        load_tokenizer(load_model(str(tmp_path), "model_name_or_path", settings), settings)
