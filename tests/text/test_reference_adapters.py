"""A LoRA against another adapter on the same base, or against the base itself: without a second
network, by the numbers of one, and by TRL's."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from diffdpo.config import parse, settings_of
from diffdpo.errors import UserError
from diffdpo.losses import preference_loss
from diffdpo.reference import AdapterCopy, AdapterOff, BaseModel, OtherAdapter, OtherModel
from diffdpo.text.facts import kind_of
from diffdpo.text.model.loading import load_model
from diffdpo.text.model.network import frozen_storage, make_reference, make_trainable
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text.engine import OneStep
from tests.text.factory import model, pair_rows, save_model, tokenizer
from tests.text.runs import flags, metrics, train

CPU = torch.device("cpu")
ROWS = 4


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base, two adapters on it, and one that brings embeddings of its own."""
    folder = tmp_path_factory.mktemp("places")
    base = save_model(folder / "base")
    found = {"base": base}
    for seed, name in enumerate(("first", "second", "whole")):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_pretrained(base)
        saved = ["embed_tokens"] if name == "whole" else None
        layers = ["q_proj", "down_proj"] if name == "first" else ["v_proj", "up_proj"]
        network.add_adapter(
            LoraConfig(
                r=2, target_modules=layers, init_lora_weights=False, modules_to_save=saved,
                lora_dropout=0.3, task_type="CAUSAL_LM",
            )
        )  # fmt: skip
        with torch.no_grad():
            for name_of, weight in network.named_parameters():
                if "modules_to_save" in name_of:
                    weight += 0.1
        network.save_pretrained(folder / name)
        found[name] = folder / name
    return found


def prepared(policy, reference, apart=False, **more):
    settings = TextSettings(
        model_name_or_path=str(policy), ref_model_name_or_path=str(reference), **more
    )
    frozen = frozen_storage(settings)
    network = load_model(str(policy), "model_name_or_path", settings, frozen)
    scorer = make_trainable(network, settings, CPU).train()
    return scorer, make_reference(scorer, settings, False, apart=apart)


@pytest.fixture(scope="module")
def draw():
    rows = TextRows(Dataset.from_list(pair_rows(ROWS)), tokenizer(), RowSettings(64))
    task = OneStep(model(), model()).task
    return task, task.draw(task.collate(rows.items))


def both(scorer, reference, draw):
    task, drawn = draw
    return task.score(scorer, drawn).score_N, reference.score(task.score, scorer, drawn)


def test_a_loaded_adapter_says_what_it_has_of_its_own(places):
    name = str(places["first"])
    for words, told in (
        ("--lora_r 128", " (no effect: --lora_r)"),
        ("--lora_r 2 --lora_alpha 8 --lora_target_modules down_proj q_proj", ""),
        ("--lora_alpha 4 --lora_target_modules q_proj", " (no effect: --lora_alpha, --lora_target"),
    ):
        given = f"--model_name_or_path {name} --dataset_name d --use_peft {words}"
        settings, _ = parse(TextSettings, given.split())
        network = load_model(name, "model_name_or_path", settings, frozen_storage(settings))
        said = kind_of(settings, make_trainable(network, settings, CPU))
        assert said.startswith(f"the loaded adapter, trained further, rank 2{told}")
        assert told or said.endswith("rank 2")


CASES = [
    ("first", "second", {}, OtherAdapter),
    ("base", "second", {"use_peft": True}, OtherAdapter),
    ("first", "base", {}, BaseModel),
    ("base", "base", {"use_peft": True}, AdapterOff),
    ("first", "whole", {}, OtherModel),  # its embedding would be the policy's as well
    ("base", "base", {"use_peft": True, "init_lora_weights": "pissa"}, OtherModel),
    ("base", "second", {}, OtherModel),
]


@pytest.mark.parametrize(("policy", "reference", "more", "kind"), CASES)
def test_the_reference_gives_the_scores_of_a_network_of_its_own(
    places, draw, policy, reference, more, kind
):
    scorer, found = prepared(places[policy], places[reference], **more)
    assert type(found) is kind
    other, apart = prepared(places[policy], places[reference], apart=True, **more)
    assert type(apart) is OtherModel
    trained = {name for name, weight in scorer.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in other.named_parameters() if weight.requires_grad}
    policy_N, frozen_N = both(scorer, found, draw)
    theirs_N, expected_N = both(other, apart, draw)
    assert torch.equal(policy_N, theirs_N)
    torch.testing.assert_close(frozen_N, expected_N, rtol=1e-6, atol=1e-5)
    assert torch.equal(policy_N, frozen_N) == (kind is AdapterOff)
    policy_N.sum().backward()
    touched = {name for name, weight in scorer.named_parameters() if weight.grad is not None}
    assert touched <= trained
    with torch.no_grad():
        for name, weight in scorer.named_parameters():
            if name in touched:
                weight += 0.1
    moved_N, still_N = both(scorer, found, draw)
    assert torch.equal(still_N, frozen_N)
    assert not torch.allclose(moved_N, policy_N, rtol=1e-3)
    if kind is OtherAdapter:
        # Its own weights alone are added to the network.
        more_N = sum(w.numel() for n, w in scorer.named_parameters() if ".reference." in n)
        sizes = [sum(w.numel() for w in each.parameters()) for each in (scorer, other)]
        assert sizes[0] - more_N <= sizes[1]
        assert scorer.network.active_adapters() == [AdapterCopy.trained]


@pytest.mark.parametrize("reference", ["second", "base"])
def test_the_loss_is_trls(places, draw, tmp_path, reference):
    trl = pytest.importorskip("trl")
    config = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=ROWS, use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to="none", max_length=64,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(places["base"])
    policy = PeftModel.from_pretrained(base, places["first"], is_trainable=True)
    other = AutoModelForCausalLM.from_pretrained(places["base"])
    if reference != "base":
        other = PeftModel.from_pretrained(other, places[reference]).merge_and_unload()
    rows = Dataset.from_list(pair_rows(ROWS))
    trainer = trl.DPOTrainer(
        model=policy, ref_model=other, args=config, train_dataset=rows,
        processing_class=tokenizer(),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(ROWS)])
    trainer.model.eval()  # TRL leaves the dropout of a loaded adapter on
    expected = trainer._compute_loss(trainer.model, batch, False)
    scorer, found = prepared(places["first"], places[reference])
    policy_N, frozen_N = both(scorer, found, draw)
    loss_B = preference_loss("sigmoid", *(policy_N - frozen_N).chunk(2), beta=0.1)
    assert loss_B.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert ((loss_B - 0.6931).abs() > 1e-2).all()


def test_a_run_stores_its_scores_and_says_what_it_is(places, data, tmp_path, capsys):
    more = {"ref_model_name_or_path": places["second"], "max_train_steps": 2}
    train(*flags(places["first"], data["pairs"], tmp_path / "live", **more))
    said = capsys.readouterr().out
    assert f"reference: {places['second']}, an adapter on the same network" in said
    more |= {"precompute_ref_log_probs": True, "reference_cache_dir": tmp_path / "cache"}
    train(*flags(places["first"], data["pairs"], tmp_path / "stored", **more))
    live, stored = metrics(tmp_path / "live"), metrics(tmp_path / "stored")
    assert stored[1]["loss"] == pytest.approx(live[1]["loss"], rel=1e-4)
    assert live[0]["rewards/margins"] != 0


def test_llama_factorys_adapters(places, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    given = {
        "stage": "dpo", "model_name_or_path": places["base"], "dataset_name": "d",
        "adapter_name_or_path": places["first"], "ref_model": places["base"],
        "ref_model_adapters": places["second"],
    }  # fmt: skip
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    settings, _ = parse(TextSettings, ["--config", str(recipe)])
    assert settings.model_name_or_path == str(places["first"])
    assert settings.ref_model_name_or_path == str(places["second"])
    recipe.write_text(recipe.read_text().replace(f": {places['base']}\n", ": ./elsewhere\n"))
    with pytest.raises(UserError, match=r"and the settings \./elsewhere; make them the same"):
        parse(TextSettings, ["--config", str(recipe)])
    with pytest.raises(UserError, match="name one; merge the others into the model first"):
        settings_of(TextSettings, adapter_name_or_path="a,b")


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("pissa_init: true", "pissa_niter_16"),
        ("pissa_init: true\npissa_iter: -1\npissa_convert: true", "pissa"),
        ("pissa_init: false\npissa_iter: 16", None),
    ],
)
def test_llama_factorys_pissa_and_whole_modules(tmp_path, given, start):
    (tmp_path / "recipe.yaml").write_text(
        f"stage: dpo\nmodel_name_or_path: .\ndataset_name: d\n{given}\n"
        "additional_target: embed_tokens,lm_head\n"
    )
    settings, _ = parse(TextSettings, ["--config", str(tmp_path / "recipe.yaml")])
    assert settings.init_lora_weights == start
    assert settings.lora_modules_to_save == ["embed_tokens", "lm_head"]
