"""LoRAs that begin in other ways, and modules that are trained whole beside them: the policy starts
as the model, the model is the reference to the end, and the result is one for the model."""

import math
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from diffdpo.cli import run_command
from diffdpo.config import parse
from diffdpo.errors import UserError
from diffdpo.reference import AdapterCopy, AdapterOff
from diffdpo.text.model.export import export
from diffdpo.text.model.loading import load_model, load_tokenizer
from diffdpo.text.model.network import frozen_storage, make_reference, make_trainable
from diffdpo.text.settings import TextSettings
from tests.text.engine import step
from tests.text.factory import model, save_model
from tests.text.runs import flags, metrics, train

CPU = torch.device("cpu")
IDS = torch.arange(9)[None] * 7
SPLIT = ["pissa", "pissa_niter_4", "olora"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), layers=2)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("tied"))
    config = model().config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def prepared(name, **settings):
    given = {"model_name_or_path": str(name), "use_peft": True, "lora_r": 4, "lora_alpha": 8}
    settings = TextSettings(**given | settings)
    network = load_model(str(name), "model_name_or_path", settings, frozen_storage(settings))
    scorer = make_trainable(network, settings, CPU).train()
    return settings, scorer, make_reference(scorer, settings, reference_free=False)


def logits(network):
    with torch.no_grad():
        return network.eval()(IDS).logits


def is_at_start(reward_N, loss_B):
    return reward_N.tolist() == [0.0] * len(reward_N) and loss_B.tolist() == pytest.approx(
        [math.log(2)] * len(loss_B), abs=1e-7
    )


def check_result(scorer, settings, base, before):
    """What is written gives on the plain base what was trained, loaded and merged; ``before`` are
    the base's logits."""
    trained = logits(scorer.network)
    assert not torch.allclose(trained, before, atol=0.1)
    folder = export(scorer.network, load_tokenizer(scorer.network, settings), settings, {})
    written = AutoPeftModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(written), trained, rtol=1e-4, atol=1e-3)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    merged = merged.merge_and_unload()
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-3)
    merged.save_pretrained(folder / "merged")
    again = AutoModelForCausalLM.from_pretrained(folder / "merged")
    torch.testing.assert_close(logits(again), trained, rtol=1e-4, atol=1e-3)
    # Further training finds it as it was left.
    changes = {"use_peft": False, "lora_modules_to_save": [], "init_lora_weights": None}
    _, further, first = prepared(folder, **changes)
    torch.testing.assert_close(logits(further.network), trained, rtol=1e-4, atol=1e-3)
    return further, first


@pytest.mark.parametrize(
    ("start", "rslora"),
    [
        ("pissa", True),
        *(
            pytest.param(start, False, marks=pytest.mark.slow)
            for start in ("gaussian", "pissa_niter_4", "olora")
        ),
    ],
)
def test_the_reference_of_a_lora_is_the_model_however_it_begins(
    base, draw, tmp_path, start, rslora
):
    more = {"init_lora_weights": start, "use_rslora": rslora, "output_dir": str(tmp_path / "out")}
    settings, scorer, reference = prepared(base, **more)
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert type(reference) is (AdapterCopy if start in SPLIT else AdapterOff)
    moved = not torch.equal(
        scorer.network.model.layers[0].mlp.up_proj.base_layer.weight,
        plain.model.layers[0].mlp.up_proj.weight,
    )
    assert moved == (start in SPLIT)
    _, _, expected_N = step(*prepared(base)[1:], draw)
    reward_N, loss_B, frozen_N = step(scorer, reference, draw)
    assert is_at_start(reward_N, loss_B)
    torch.testing.assert_close(frozen_N, expected_N, rtol=1e-5, atol=1e-4)
    for _ in range(2):
        reward_N, _, still_N = step(scorer, reference, draw)
    assert reward_N.all()
    assert torch.equal(still_N, frozen_N)
    check_result(scorer, settings, base, logits(plain))


def test_what_is_written_is_what_peft_itself_converts_to(base, tmp_path):
    """The same first state and the same change of it."""
    settings, scorer, _ = prepared(base, init_lora_weights="pissa", output_dir=str(tmp_path / "o"))
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "first")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    own = dict(scorer.network.named_parameters())
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if ".lora_" in name:
                torch.testing.assert_close(own[name.removeprefix("base_model.model.")], weight)
                weight += 0.1
                own[name.removeprefix("base_model.model.")].copy_(weight)
    theirs.save_pretrained(
        tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "first")
    )
    folder = export(scorer.network, load_tokenizer(scorer.network, settings), settings, {})
    found, expected = (
        load_file(place / "adapter_model.safetensors") for place in (folder, tmp_path / "theirs")
    )
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("saved", "precision"),
    [
        (["embed_tokens", "lm_head"], "no"),
        (["embed_tokens", "lm_head"], "bf16"),
        (["norm"], "bf16"),
        pytest.param(["layers.0.mlp.up_proj"], "no", marks=pytest.mark.slow),
        pytest.param(["layers.0.mlp.up_proj"], "bf16", marks=pytest.mark.slow),
    ],
)
def test_modules_are_trained_whole_and_the_reference_has_their_first_state(
    base, draw, tmp_path, saved, precision
):
    more = {"lora_modules_to_save": saved, "output_dir": str(tmp_path / "out")}
    settings, scorer, reference = prepared(base, **more, mixed_precision=precision)
    trained = {n: w for n, w in scorer.network.named_parameters() if w.requires_grad}
    assert all(weight.dtype == torch.float32 for weight in trained.values())
    whole = [name for name in trained if ".lora_" not in name]
    found = {name.partition(".modules_to_save")[0] for name in whole}
    assert all(any(name.endswith(end) for name in found) for end in saved)
    first = {name: trained[name].detach().clone() for name in whole}
    dtype = torch.bfloat16 if precision == "bf16" else None
    reward_N, loss_B, frozen_N = step(scorer, reference, draw, dtype)
    assert is_at_start(reward_N, loss_B)
    for _ in range(2):
        reward_N, _, still_N = step(scorer, reference, draw, dtype)
    assert reward_N.all()
    assert torch.equal(still_N, frozen_N)
    assert all(not torch.equal(trained[name], first[name]) for name in whole)
    if precision == "no":
        plain = AutoModelForCausalLM.from_pretrained(base)
        further, again = check_result(scorer, settings, base, logits(plain))
        reward_N, loss_B, _ = step(further.train(), again, draw)
        assert is_at_start(reward_N, loss_B)


def test_a_loaded_adapter_with_whole_modules_starts_as_its_reference_in_bfloat16(
    base, draw, tmp_path
):
    network = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"],
        init_lora_weights=False,
    )  # fmt: skip
    network.add_adapter(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "modules_to_save" in name:
                weight += 0.01 * torch.randn_like(weight)  # numbers that bfloat16 does not have
    network.save_pretrained(tmp_path)
    _, scorer, reference = prepared(tmp_path, use_peft=False, mixed_precision="bf16")
    reward_N, loss_B, _ = step(scorer, reference, draw, torch.bfloat16)
    assert is_at_start(reward_N, loss_B)


@pytest.mark.parametrize(
    "saved", [["embed_tokens"], pytest.param(["lm_head"], marks=pytest.mark.slow)]
)
def test_tied_ends_stay_tied(tied, draw, tmp_path, saved):
    more = {"lora_modules_to_save": saved, "output_dir": str(tmp_path / "out")}
    settings, scorer, reference = prepared(tied, **more)
    reward_N, loss_B, frozen_N = step(scorer, reference, draw)
    assert is_at_start(reward_N, loss_B)
    _, _, still_N = step(scorer, reference, draw)
    assert torch.equal(still_N, frozen_N)
    network = scorer.network
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    plain = AutoModelForCausalLM.from_pretrained(tied)
    check_result(scorer, settings, tied, logits(plain))


@pytest.mark.parametrize("bits", ["fp8", "int8"])
def test_whole_modules_over_a_base_in_few_bits(base, draw, bits):
    more = {"base_precision": bits, "mixed_precision": "bf16"}
    _, scorer, reference = prepared(base, lora_modules_to_save=["embed_tokens", "lm_head"], **more)
    reward_N, loss_B, _ = step(scorer, reference, draw, torch.bfloat16)
    assert is_at_start(reward_N, loss_B)
    assert step(scorer, reference, draw, torch.bfloat16)[0].all()
    if bits == "int8":
        with pytest.raises(UserError, match=r"up_proj are in few bits by --base_precision int8"):
            prepared(base, lora_modules_to_save=["up_proj"], **more)


@pytest.mark.parametrize(
    "more",
    [
        {"init_lora_weights": "pissa"},
        pytest.param({"lora_modules_to_save": ["norm", "lm_head"]}, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_resumed_and_exported(lm, data, tmp_path, more):
    more |= {"use_peft": True, "lora_r": 4, "lr_scheduler": "constant", "max_train_steps": 4}
    train(*flags(lm, data["pairs"], tmp_path / "straight", **more))
    cut = {**more, "checkpointing_steps": 2}
    train(*flags(lm, data["pairs"], tmp_path / "cut", **{**cut, "max_train_steps": 2}))
    shutil.copytree(tmp_path / "cut", tmp_path / "early")
    (tmp_path / "cut" / "adapter_model.safetensors").unlink()
    train(*flags(lm, data["pairs"], tmp_path / "cut", **cut, resume_from_checkpoint="latest"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    assert metrics(tmp_path / "cut")[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    file = "adapter_model.safetensors"
    one, other = (load_file(tmp_path / name / file) for name in ("straight", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    words = [tmp_path / "early", "--step", 2, "--output_dir", tmp_path / "exported"]
    assert run_command("export", [str(word) for word in words]) == 0
    early = load_file(tmp_path / "early" / "adapter_model.safetensors")
    exported = load_file(tmp_path / "exported" / "adapter_model.safetensors")
    assert all(torch.equal(early[name], exported[name]) for name in early)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--init_lora_weights pissa", "--init_lora_weights is about a new LoRA; add --use_peft"),
        ("--use_peft --init_lora_weights eva", "'eva' is unknown; known: gaussian, pissa"),
        ("--use_peft --use_dora --init_lora_weights olora", "is no sum of the weights and a LoRA"),
        ("--use_peft --base_precision int8 --init_lora_weights pissa", "has rounded them; keep"),
    ],
)
def test_what_does_not_go_together_is_named(words, line):
    with pytest.raises(UserError, match=line):
        parse(TextSettings, words.split())


def test_names_that_no_module_has(base, tmp_path):
    with pytest.raises(UserError, match="--lora_modules_to_save wte: no module has this name"):
        prepared(base, lora_modules_to_save=["norm", "wte"])
    network = AutoModelForCausalLM.from_pretrained(base)
    network.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    network.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an adapter, which begins as it is"):
        prepared(tmp_path, lora_modules_to_save=["norm"])
    (line,) = TextSettings(use_peft=True, init_lora_weights="pissa").problems_in_shares()
    assert line == "--init_lora_weights pissa: not with weights in shares (FSDP2)"


def test_a_single_word_may_be_a_pattern_of_layers(base):
    _, scorer, _ = prepared(base, lora_target_modules=[r".*layers\.1.*(q|k)_proj"])
    names = {n.partition(".lora_")[0] for n, w in scorer.named_parameters() if w.requires_grad}
    assert names == {f"network.model.layers.1.self_attn.{name}_proj" for name in "qk"}
    _, scorer, _ = prepared(base, lora_target_modules=["q_proj"])
    assert sum(".lora_A." in name for name, _ in scorer.named_parameters()) == 2
