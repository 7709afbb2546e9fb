"""Every weight comes from its file: whole models, adapters of every kind, padded and other
vocabularies, positions."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from diffdpo.cli import run_command
from diffdpo.errors import UserError
from diffdpo.text.model.limits import check_rows, check_same_tokens, has_position_table
from diffdpo.text.model.loading import check_finite, load_model, load_tokenizer
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.scoring.sharing import obstacle
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text.factory import label_rows, model, pair_rows, save_model, tokenizer, write_jsonl
from tests.text.runs import flags

IDS = torch.arange(9)[None] * 7


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), layers=2)


def loaded(folder):
    settings = TextSettings(model_name_or_path=str(folder))
    return load_model(str(folder), "model_name_or_path", settings).eval()


ADAPTERS = {
    "LoRA": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.1),
    "DoRA": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
    "rsLoRA": LoraConfig(r=2, target_modules=["q_proj"], use_rslora=True),
    "the head as well": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "embeddings": LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]),
    "new tokens": LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 7]),
    "IA3": IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_is_loaded_as_peft_loads_it(base, tmp_path, config):
    config.task_type = "CAUSAL_LM"
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trained.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    trained.save_pretrained(tmp_path)
    expected = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()(IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    assert not torch.allclose(expected, plain, atol=0.05)
    assert torch.allclose(loaded(tmp_path)(IDS).logits, expected, atol=1e-5)


def change(folder, tmp_path, edit):
    """A copy of the model whose weights are edited."""
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return tmp_path / "copy"


def test_weights_are_all_there_or_the_line_names_them(base, tmp_path):
    def without_layer(tensors):
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    folder = change(base, tmp_path, without_layer)
    with pytest.raises(UserError, match=r"lacks 9 of the network's weights \(model.layers.1"):
        loaded(folder)


def test_tables_of_older_checkpoints_are_let_pass(base, tmp_path):
    def with_table(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    assert torch.equal(
        loaded(change(base, tmp_path, with_table))(IDS).logits, loaded(base)(IDS).logits
    )


def test_a_tied_head_is_not_missed(tmp_path):
    network = model()
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.allclose(loaded(tmp_path)(IDS).logits, network(IDS).logits, atol=1e-5)


def rows_of(count=4, **settings):
    return TextRows(Dataset.from_list(pair_rows(count)), tokenizer(), RowSettings(**settings))


def test_a_reference_may_have_a_padded_vocabulary_and_no_other_tokenizer(base, tmp_path):
    words, rows = tokenizer(), rows_of()
    padded = model()
    padded.resize_token_embeddings(271 + 57)
    padded.save_pretrained(tmp_path / "padded")
    words.save_pretrained(tmp_path / "padded")
    settings = TextSettings(ref_model_name_or_path=str(tmp_path / "padded"))
    check_same_tokens(padded, words, settings, rows)
    other = json.loads((tmp_path / "padded" / "tokenizer.json").read_text())
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "padded" / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"another tokenizer \(2 words differ, such as 'a'\)"):
        check_same_tokens(padded, words, settings, rows)
    small = model()
    small.resize_token_embeddings(100)
    words.save_pretrained(tmp_path / "small")
    settings = TextSettings(ref_model_name_or_path=str(tmp_path / "small"))
    with pytest.raises(UserError, match="the model knows 100 tokens"):
        check_same_tokens(small, words, settings, rows)


def test_learned_positions_end_and_rotary_ones_do_not():
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=271, n_embd=16, n_layer=1, n_head=2, n_positions=9))
    assert has_position_table(gpt)
    with pytest.raises(UserError, match=r"has 9 positions, and a row has .* take --max_length 9"):
        check_rows(gpt, "model_name_or_path", "gpt", rows_of())
    llama = model()
    llama.config.max_position_embeddings = 9
    assert not has_position_table(llama)
    check_rows(llama, "model_name_or_path", "llama", rows_of())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_follow_the_longest_row_are_no_ground_for_sharing(kind):
    network = model()
    assert obstacle(network) is None
    network.config.rope_parameters = {"rope_type": kind, "factor": 2.0}
    assert kind in obstacle(network)
    network.config.rope_parameters = {"full_attention": {"rope_type": kind}}
    assert kind in obstacle(network)
    network.config.rope_parameters = {"rope_type": "linear", "factor": 2.0}
    assert obstacle(network) is None


def test_a_damaged_tokenizer_is_not_replaced_by_that_of_the_base(base, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(base)
    network.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    network.save_pretrained(tmp_path)
    settings = TextSettings(model_name_or_path=str(tmp_path))
    assert len(load_tokenizer(network, settings)) == 271
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        load_tokenizer(network, settings)


def test_the_first_lines_say_what_is_missing(base, tmp_path, capsys):
    """No end, one class alone, rows beyond the model's positions, columns not read."""
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    for file, name, value in (
        ("tokenizer_config.json", "eos_token", None),
        ("config.json", "max_position_embeddings", 8),
    ):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, name: value}))
    rows = [{**row, "label": True, "note": "n"} for row in label_rows(6)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = flags(folder, data, tmp_path / "out", loss_type="kto", max_train_steps=1)
    assert run_command("train_text_dpo", words) == 0
    out = capsys.readouterr().out
    assert "end          the tokenizer has no EOS" in out
    assert "6 desirable, 0 undesirable; WARNING: all of one label" in out
    assert "tokens; the model was made for 8" in out
    assert "not read     columns note" in out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_finite(network, "--policy a/run")
    network[1].bias.data[1] = value
    line = r"--policy a/run: 1 of its weights are not finite \(1\.bias\)"
    with pytest.raises(UserError, match=line):
        check_finite(network, "--policy a/run")
