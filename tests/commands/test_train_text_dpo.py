"""The real command line on real files: every loss, resume, processes, formats, results."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.losses import LOSSES
from tests.conftest import script
from tests.processes import run_forked, run_two
from tests.text.factory import CHATML, pair_rows, save_model, write_jsonl
from tests.text.runs import fails_with, flags, metrics, train

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_two_steps_then_two_more_are_four_in_one_go(lm, data, tmp_path):
    """By the real script; bit for bit."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    schedule = {"lr_scheduler": "constant", "use_peft": True}
    train(*flags(lm, data["chats"], straight, **schedule))
    words = flags(lm, data["chats"], cut, max_train_steps=2, checkpointing_steps=2, **schedule)
    first = run_forked(script("train_text_dpo", *words))
    assert first.returncode == 0, first.stderr
    for word in (
        "12 pairs of 12 rows (pairs), 0 unusable",
        "LoRA rank 16",
        "adapters off",
        "1 sigmoid; beta 0.1",
    ):
        assert word in first.stdout
    again = flags(
        lm, data["chats"], cut, resume_from_checkpoint="latest", checkpointing_steps=2, **schedule
    )
    second = run_forked(script("train_text_dpo", *again))
    assert second.returncode == 0, second.stderr
    assert "resumed" in second.stdout
    assert metrics(cut) == metrics(straight)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (straight, cut))
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_metrics_have_trls_names_and_step_one_is_ln_2(lm, data, tmp_path, capsys):
    train(*flags(lm, data["pairs"], tmp_path / "run"))
    lines = metrics(tmp_path / "run")
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")}
    expected = {"step", "loss", "grad_norm", "lr", "logps/chosen", "logps/rejected"} | rewards
    expected |= {"logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy", "num_tokens"}
    assert all(set(line) == expected for line in lines)
    assert lines[0]["loss"] == pytest.approx(0.6931471805599453, abs=1e-7)
    assert lines[0]["rewards/margins"] == 0.0
    assert lines[1]["rewards/margins"] != 0.0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("peft", [None, True])
@pytest.mark.parametrize("checkpointing", [None, True])
def test_step_one_is_exact_in_bf16(lm, data, tmp_path, capsys, peft, checkpointing):
    changes = {
        "bf16": True,
        "use_peft": peft,
        "gradient_checkpointing": checkpointing,
        "max_train_steps": 2,
    }
    train(*flags(lm, data["chats"], tmp_path / "run", **changes))
    lines = metrics(tmp_path / "run")
    assert lines[0]["rewards/chosen"] == lines[0]["rewards/rejected"] == 0.0
    assert lines[1]["rewards/chosen"] != 0.0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("loss", [name for name, row in LOSSES.items() if row.only != "images"])
def test_every_loss_trains_on_text(lm, data, tmp_path, loss):
    out = tmp_path / "run"
    train(
        *flags(
            lm, data["pairs"], out, loss_type=loss, max_train_steps=2, gradient_accumulation_steps=2
        )
    )
    lines = metrics(out)
    assert len(lines) == 2
    assert lines[1]["grad_norm"] > 0
    assert ("kl" in lines[0]) == (loss == "kto")


def test_sums_of_losses_and_the_added_sft_term(lm, data, tmp_path, capsys):
    train(
        *flags(
            lm, data["pairs"], tmp_path / "a", loss_type=["sigmoid", "sft"], loss_weights=[1, 0.2]
        )
    )
    assert "1 sigmoid + 0.2 sft" in capsys.readouterr().out
    train(*flags(lm, data["pairs"], tmp_path / "b", rpo_alpha=0.2))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "orpo"])
def test_the_cut_into_processes_and_micro_batches_changes_nothing(lm, data, tmp_path, loss):
    """1 x 4, 2 x 2 and 1 x 1 x 4 accumulated: the same losses, reference point and metrics to
    float32 rounding."""
    rows = data["labels" if loss == "kto" else "pairs"]
    cuts = {"whole": {}, "accumulated": {"train_batch_size": 1, "gradient_accumulation_steps": 4}}
    for name, changes in cuts.items():
        train(*flags(lm, rows, tmp_path / name, loss_type=loss, **changes))
    words = flags(lm, rows, tmp_path / "processes", loss_type=loss, train_batch_size=2)
    found = run_two(script("train_text_dpo", *words))
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("= 2 x 1 accumulated x 2 processes") == 1
    for name in ("accumulated", "processes"):
        other = metrics(tmp_path / name)
        assert len(other) == 4
        for a, b in zip(metrics(tmp_path / "whole"), other, strict=True):
            assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


def test_the_result_loads_as_its_users_load_it(lm, data, tmp_path):
    for name, peft in (("full", None), ("lora", True)):
        out = tmp_path / name
        train(*flags(lm, data["chats"], out, use_peft=peft))
        found, base = (AutoModelForCausalLM.from_pretrained(place) for place in (out, lm))
        ids = torch.arange(20)[None]
        assert not torch.allclose(found(ids).logits, base(ids).logits, atol=1e-4)
        assert AutoTokenizer.from_pretrained(out).chat_template == CHATML
        assert "save_pretrained" not in (out / "README.md").read_text()
        assert (out / "adapter_config.json").exists() == bool(peft)


def test_an_sft_adapter_goes_on_from_itself_and_against_itself(lm, data, tmp_path, capsys):
    train(
        *flags(
            lm, data["chats"], tmp_path / "sft", loss_type="sft", use_peft=True, learning_rate=1e-2
        )
    )
    train(*flags(tmp_path / "sft", data["chats"], tmp_path / "dpo", learning_rate=1e-2))
    shown = capsys.readouterr().out
    assert "reference: the adapter as it was before the first step" in shown
    assert "WARNING" not in shown
    lines = metrics(tmp_path / "dpo")
    assert lines[0]["rewards/chosen"] == 0.0
    # The policy of the first step is the adapter, not the base: its likelihood is the one SFT ended
    # with.
    train(*flags(lm, data["chats"], tmp_path / "base"))
    assert lines[0]["logps/chosen"] > metrics(tmp_path / "base")[0]["logps/chosen"] + 1
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("sft", "dpo"))
    assert set(a) == set(b)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_another_model_as_reference(lm, data, tmp_path, capsys):
    other = save_model(tmp_path / "other", seed=3)
    train(*flags(lm, data["pairs"], tmp_path / "run", ref_model_name_or_path=other))
    assert f"reference: {other}" in capsys.readouterr().out
    assert metrics(tmp_path / "run")[0]["rewards/chosen"] != 0.0


def test_labels_are_counted_and_weights_suggested(lm, data, tmp_path, capsys):
    train(*flags(lm, data["labels"], tmp_path / "a", loss_type="kto"))
    shown = capsys.readouterr().out
    assert (
        "8 desirable, 4 undesirable; weighted 2.00 to 1, --undesirable_weight 2 balances them"
        in shown
    )
    train(*flags(lm, data["pairs"], tmp_path / "b", loss_type="kto"))
    assert "24 labelled items of 12 rows" in capsys.readouterr().out
    for line in metrics(tmp_path / "b"):
        assert line["kl"] >= 0


def test_a_model_without_pad_token_and_a_preview(lm, data, tmp_path, capsys):
    bare = save_model(tmp_path / "bare", pad=False)
    train(*flags(bare, data["chats"], tmp_path / "run", preview=1))
    train(*flags(lm, data["chats"], tmp_path / "other"))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "other")
    assert (
        r"row 0, masked (27 tokens): '<|im_start|>user\nQ0: good?<|im_end|>"
        in capsys.readouterr().out
    )


@pytest.mark.skipif(not SHARED.exists(), reason="the shared demo files are not here")
@pytest.mark.parametrize(("name", "loss"), [("dpo_en_demo", "sigmoid"), ("kto_en_demo", "kto")])
def test_demo_files_train_untouched(lm, tmp_path, capsys, name, loss):
    limits = {
        "max_length": 256,
        "train_batch_size": 2,
        "max_train_steps": 1,
        "max_train_samples": 8,
    }
    train(*flags(lm, SHARED / f"{name}.json", tmp_path / "run", loss_type=loss, **limits))
    assert "of 300 rows" in capsys.readouterr().out


TRL_COMMANDS = {
    "dpo": (
        "--loss_type sigmoid --beta 0.1 --max_steps 1 --per_device_train_batch_size 2"
        " --gradient_accumulation_steps 2 --learning_rate 5.0e-7 --num_train_epochs 1"
        " --lr_scheduler_type cosine --warmup_steps 1 --weight_decay 0.01 --logging_steps 25"
        " --save_steps 50 --save_total_limit 1 --report_to none --bf16 True"
        " --gradient_checkpointing --max_length 64 --dataset_train_split train"
    ),
    "lora": (
        "--max_steps 1 --use_peft --lora_r 8 --lora_alpha 16 --lora_dropout 0.05"
        " --lora_target_modules q_proj v_proj --report_to none --save_strategy steps"
        " --dataset_num_proc 2 --truncation_mode keep_start"
    ),
}


@pytest.mark.parametrize("name", TRL_COMMANDS)
def test_launch_commands_of_trl_run_as_they_are(lm, data, tmp_path, capsys, name):
    where = [
        "--model_name_or_path",
        lm,
        "--dataset_name",
        data["chats"],
        "--output_dir",
        tmp_path / "run",
    ]
    train(*where, *TRL_COMMANDS[name].split())
    assert len(metrics(tmp_path / "run")) == 1
    if name == "lora":
        assert "--lora_dropout: dropout is off" in capsys.readouterr().out


def test_the_written_settings_repeat_the_run(lm, data, tmp_path):
    train(
        *flags(lm, data["pairs"], tmp_path / "one", max_train_steps=2, loss_type=["sigmoid", "sft"])
    )
    train("--config", tmp_path / "one" / "config.yaml", "--output_dir", tmp_path / "two")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())["loss_type"] == [
        "sigmoid",
        "sft",
    ]


def test_another_runs_folder_is_not_continued_unasked(lm, tmp_path, capsys):
    out, rows = tmp_path / "run", write_jsonl(tmp_path / "rows.jsonl", pair_rows(12))
    train(*flags(lm, rows, out, checkpointing_steps=2))
    capsys.readouterr()
    fails_with(flags(lm, rows, out), "holds another run", capsys)
    resume = {"resume_from_checkpoint": "latest"}
    fails_with(flags(lm, rows, out, beta=0.2, **resume), "--beta 0.1, this one 0.2", capsys)
    write_jsonl(rows, pair_rows(13))
    fails_with(flags(lm, rows, out, **resume), "other data", capsys)
