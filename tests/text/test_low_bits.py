"""A frozen base in fewer bits under a LoRA: the policy starts as its reference, learns, and its
adapter is one for the base as it was."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from diffdpo.cache.keys import network_digest
from diffdpo.config import parse
from diffdpo.engine.finite import plain_tensors
from diffdpo.engine.low_bits import is_plain, loading_options
from diffdpo.errors import UserError
from diffdpo.text.model.export import export
from diffdpo.text.model.loading import load_model, load_tokenizer
from diffdpo.text.model.network import (
    frozen_storage,
    make_reference,
    make_trainable,
    save_activations,
)
from diffdpo.text.settings import TextSettings
from tests.text.engine import step
from tests.text.factory import save_model
from tests.toy import mistakes

CPU = torch.device("cpu")
FEWER = ["fp8", "int8", "fp8_torchao"]
IDS = torch.arange(9)[None] * 7


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), layers=2)


def prepared(name, bits=None, **settings):
    settings = TextSettings(
        **{"model_name_or_path": str(name), "use_peft": True, "mixed_precision": "bf16",
           "base_precision": bits} | settings
    )  # fmt: skip
    frozen = frozen_storage(settings)
    network = load_model(str(name), "model_name_or_path", settings, frozen)
    scorer = make_trainable(network, settings, CPU)
    save_activations(network, settings)
    return settings, scorer.train()


def frozen_bytes(scorer):
    frozen = ((n, w) for n, w in scorer.named_parameters() if ".base_layer." in n)
    return sum(
        one.numel() * one.element_size() for n, w in frozen for _, one in plain_tensors(n, w)
    )


@pytest.mark.parametrize("bits", [None, "bf16", *FEWER])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_policy_starts_as_its_reference_and_parts(base, draw, bits, checkpointing):
    settings, scorer = prepared(base, bits, gradient_checkpointing=checkpointing)
    reference = make_reference(scorer, settings, reference_free=False)
    trained = {n: w for n, w in scorer.named_parameters() if w.requires_grad}
    assert trained
    assert all(".lora_" in n and w.dtype == torch.float32 for n, w in trained.items())
    before = network_digest(scorer)
    reward_N, loss_B, _ = step(scorer, reference, draw, torch.bfloat16, 0.05)
    assert reward_N.tolist() == [0.0] * len(reward_N)
    assert loss_B.tolist() == pytest.approx([math.log(2)] * len(loss_B), abs=1e-7)
    reward_N, *_ = step(scorer, reference, draw, torch.bfloat16, 0.05)
    assert reward_N.all()
    assert network_digest(scorer) == before  # of what is frozen


def test_the_bits_are_fewer_told_apart_and_not_those_of_the_head(base):
    sizes, digests = {}, {}
    for bits in ("bf16", *FEWER):
        _, scorer = prepared(base, bits)
        sizes[bits], digests[bits] = frozen_bytes(scorer), network_digest(scorer)
        assert scorer.network.lm_head.weight.dtype == torch.bfloat16
        assert not hasattr(scorer.network.lm_head.weight, "__tensor_flatten__")
    assert network_digest(prepared(base, "int8")[1]) == digests["int8"]
    assert len(set(digests.values())) == 4
    assert all(sizes[bits] < 0.75 * sizes["bf16"] for bits in FEWER)
    # What float32 gives with autocast is what the weights are when they are loaded in bfloat16.
    _, plain = prepared(base)
    assert network_digest(plain) == digests["bf16"]


@pytest.mark.parametrize("bits", [None, *FEWER])
def test_the_adapter_is_one_for_the_plain_base(base, draw, tmp_path, bits):
    settings, scorer = prepared(base, bits, output_dir=str(tmp_path / "out"))
    reference = make_reference(scorer, settings, reference_free=False)
    for _ in range(2):
        step(scorer, reference, draw, torch.bfloat16, 0.05)
    tokenizer = load_tokenizer(scorer.network, settings)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        own = scorer.network.eval()(IDS).logits.float()
        text = scorer.network.generate(IDS, min_new_tokens=4, max_new_tokens=4)
    assert text.shape == (1, 13)
    folder = export(scorer.network, tokenizer, settings, {})
    written = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    merged = merged.merge_and_unload().eval()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        theirs, start = written(IDS).logits, plain(IDS).logits
        assert torch.allclose(merged(IDS).logits, theirs, atol=1e-4)
    # Nearer to the policy that was trained than its start is: the adapter does what it did.
    assert (theirs - own).norm() < 0.2 * (start - own).norm()


def test_an_adapter_that_is_loaded_is_not_rounded_to_the_bits_beneath(base, draw, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(base)
    network.add_adapter(
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    network.save_pretrained(tmp_path)
    expected = {n: w for n, w in network.named_parameters() if ".lora_" in n}
    for bits in (None, "int8", "fp8"):
        settings, scorer = prepared(tmp_path, bits, use_peft=False)
        assert settings.model_name_or_path == str(tmp_path)
        trained = {n: w for n, w in scorer.network.named_parameters() if w.requires_grad}
        assert trained.keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in trained.items())
        reference = make_reference(scorer, settings, reference_free=False)
        reward_N, *_ = step(scorer, reference, draw, torch.bfloat16, 0.05)
        assert reward_N.tolist() == [0.0] * len(reward_N)


def test_routers_are_not_in_few_bits(tmp_path):
    """Rounding would change which experts run."""
    config = Qwen2MoeConfig(
        vocab_size=271, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, moe_intermediate_size=16, num_experts=4,
        shared_expert_intermediate_size=32, num_experts_per_tok=2,
    )  # fmt: skip
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path)
    for bits in ("int8", "fp8"):
        _, scorer = prepared(tmp_path, bits, lora_target_modules=["q_proj"])
        weights = dict(scorer.network.named_parameters())
        whole = {name for name, weight in weights.items() if is_plain(weight)}
        gates = {name for name in weights if name.endswith("gate.weight")}
        assert len(gates) == 2
        assert gates <= whole
        assert "model.layers.0.mlp.shared_expert.gate_proj.weight" in weights.keys() - whole


def test_a_head_that_is_not_known_is_refused_in_bfloat16_too(tmp_path, monkeypatch):
    config = CohereConfig(
        vocab_size=271, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=0.95, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    CohereForCausalLM(config).save_pretrained(tmp_path)
    prepared(tmp_path)  # its scale is known
    monkeypatch.setattr("diffdpo.text.scoring.scorer.logit_rules", lambda network: (1.0, None))
    with pytest.raises(UserError, match="its logits are not a plain function of its output head"):
        prepared(tmp_path)


def test_what_is_asked_for_is_what_the_libraries_get():
    """TRL's own names give bitsandbytes what TRL's own script gives it."""
    trl = pytest.importorskip("trl")
    words = ["--load_in_4bit", "--use_peft"]
    for more in (
        "",
        "--bnb_4bit_quant_type fp4 --use_bnb_nested_quant",
        "--bnb_4bit_quant_storage bfloat16 --bnb_4bit_use_double_quant",
    ):
        settings = parse(TextSettings, words + more.split())[0]
        settings = replace(settings, mixed_precision="bf16")
        frozen = frozen_storage(settings)
        (ours,) = loading_options(frozen.bits, transformers, **frozen.four_bits).values()
        expected = trl.get_quantization_config(
            trl.ModelConfig(
                load_in_4bit=True,
                dtype="bfloat16",
                bnb_4bit_quant_type=settings.bnb_4bit_quant_type or "nf4",
                use_bnb_nested_quant=settings.use_bnb_nested_quant,
                bnb_4bit_quant_storage=settings.bnb_4bit_quant_storage,
            )
        )
        assert ours.to_dict() == expected.to_dict()
    settings = parse(TextSettings, ["--load_in_8bit", "--use_peft"])[0]
    (ours,) = loading_options(settings.base_bits, transformers).values()
    assert (
        ours.to_dict() == trl.get_quantization_config(trl.ModelConfig(load_in_8bit=True)).to_dict()
    )


def test_mistakes_are_one_line(base):
    lines = partial(mistakes, cls=TextSettings)
    (line,) = lines("--load_in_4bit", "--load_in_8bit")
    assert line == "--load_in_4bit and --load_in_8bit exclude each other; keep one"
    (line,) = lines("--bnb_4bit_quant_type", "nf4")
    assert line == "--bnb_4bit_quant_type belongs to --load_in_4bit; add that"
    (line,) = lines("--base_precision", "int8", "--fp16")
    assert line == "--base_precision int8 computes in bf16; leave out --fp16"
    for changes in ({"load_in_4bit": True}, {"load_in_8bit": True}, {"base_precision": "nf4"}):
        assert TextSettings(**changes).precision == "bf16"
        (line,) = TextSettings(**changes).problems_in_shares()
        assert "not with weights in shares (FSDP2)" in line
    with pytest.raises(UserError, match="--base_precision int8 is about a LoRA; add --use_peft"):
        prepared(base, "int8", use_peft=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without one")
@pytest.mark.parametrize("changes", [{"load_in_4bit": True}, {"base_precision": "nf4"}])
def test_4_bits_ask_for_a_gpu(base, changes):
    with pytest.raises(UserError, match=r"^--(load_in_4bit|base_precision nf4): needs a GPU; "):
        prepared(base, **changes)
