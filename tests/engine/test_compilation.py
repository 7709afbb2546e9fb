"""What ``--torch_compile`` marks: blocks that are alike one by one, other networks as a whole."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from diffdpo.engine import compilation
from tests.families import factory


class Reference:
    def __init__(self, own=None):
        self.own = own

    def network(self, model):
        return nullcontext(self.own or model)


@pytest.fixture
def compiled(monkeypatch):
    """The modules that are marked."""
    marked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **options: marked.append(self))
    return marked


def test_a_row_of_declared_blocks_is_compiled_block_by_block(compiled):
    network = factory("FluxPipeline").tiny().transformer
    assert isinstance(network, FluxTransformer2DModel)
    compilation.compile_networks(network, Reference())
    assert compiled == [*network.transformer_blocks, *network.single_transformer_blocks]


def test_adapters_do_not_hide_the_blocks(compiled):
    from peft import LoraConfig

    network = factory("FluxPipeline").tiny().transformer
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    compilation.compile_networks(network, Reference())
    assert len(compiled) == 2


def test_other_networks_are_compiled_whole(compiled):
    whole = factory("StableDiffusion3Pipeline").tiny().transformer
    assert isinstance(whole, SD3Transformer2DModel)
    assert not whole._repeated_blocks
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8), cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    plain = nn.Linear(2, 2)
    for network in (whole, unet, plain):
        compiled.clear()
        compilation.compile_networks(network, Reference())
        assert compiled == [network]


def test_a_reference_of_its_own_is_compiled_as_well(compiled):
    policy, frozen = nn.Linear(2, 2), nn.Linear(2, 2)
    compilation.compile_networks(policy, Reference(frozen))
    assert compiled == [policy, frozen]


@pytest.fixture
def scorer():
    from transformers import LlamaConfig, LlamaForCausalLM

    from diffdpo.text.scoring.scorer import TokenScorer

    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    return TokenScorer(LlamaForCausalLM(LlamaConfig(vocab_size=9, num_hidden_layers=2, **small)))


def test_the_layers_of_a_language_model_are_compiled_for_all_lengths(scorer, monkeypatch):
    marked = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: marked.append((self, options))
    )
    compilation.compile_networks(scorer, Reference())
    assert marked == [(layer, {"dynamic": True}) for layer in scorer.network.model.layers]


def test_answers_are_written_by_layers_that_are_not_compiled(scorer, monkeypatch):
    def compile_it(layer, **options):
        layer._compiled_call_impl = pytest.fail

    monkeypatch.setattr(nn.Module, "compile", compile_it)
    token_NT = torch.ones((1, 3), dtype=torch.long)
    plain = scorer.generate(token_NT, max_new_tokens=4, do_sample=False)
    compilation.compile_networks(scorer, Reference())
    assert torch.equal(scorer.generate(token_NT, max_new_tokens=4, do_sample=False), plain)
    assert {layer._compiled_call_impl for layer in scorer.network.model.layers} == {pytest.fail}
