"""The real command line on real files: two steps, resume, processes, a stop."""

import signal
import sys

import pytest
import yaml
from PIL import Image

from diffdpo.losses import LOSSES
from tests.commands.image_runs import flags, metrics, same, train, wait_for_lines, weights
from tests.conftest import accelerate, run, script
from tests.factory import make_pairs, read_jsonl
from tests.processes import Started, run_forked, run_two


def test_accelerate_launch_trains_saves_and_resumes(models, pairs, tmp_path):
    """Two steps, then two more without the launcher; equal to four in one go, bit for bit."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    train(*flags(models(), pairs, straight))
    first = run(
        accelerate(
            "train_diffusion_dpo",
            *flags(models(), pairs, cut, max_train_steps=2, checkpointing_steps=2),
        )
    )
    assert first.returncode == 0, first.stderr
    for word in (
        "12 of 15 rows; 3 ties dropped",
        "beta 5000",
        "LoRA rank 4",
        "4 pairs = 4 x 1",
        "epochs",
    ):
        assert word in first.stdout
    again = flags(models(), pairs, cut, resume_from_checkpoint="latest", checkpointing_steps=2)
    second = run_forked(script("train_diffusion_dpo", *again))
    assert second.returncode == 0, second.stderr
    assert "resumed" in second.stdout
    assert metrics(cut) == metrics(straight)
    assert [line["step"] for line in metrics(cut)] == [1, 2, 3, 4]
    assert same(weights(cut), weights(straight))


def test_every_line_has_the_documented_metrics_and_step_one_is_ln_2(models, pairs, tmp_path):
    train(*flags(models(), pairs, tmp_path / "run"))
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")}
    errors = {
        f"error/{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")
    }
    expected = {"step", "loss", "grad_norm", "lr", "pairs_per_second"} | rewards | errors
    assert all(set(line) == expected for line in lines)
    assert lines[0]["loss"] == pytest.approx(0.6931471805599453, abs=1e-7)
    assert lines[0]["rewards/margins"] == 0.0
    assert lines[0]["rewards/accuracies"] == 0.5
    assert lines[1]["rewards/margins"] != 0.0


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("family", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_step_one_is_exact_in_every_precision(
    models, pairs, tmp_path, family, precision, rank, capsys
):
    out = tmp_path / "run"
    train(
        *flags(models(family), pairs, out, max_train_steps=1, mixed_precision=precision, rank=rank)
    )
    line = metrics(out)[0]
    assert line["rewards/chosen"] == line["rewards/rejected"] == line["rewards/margins"] == 0.0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "loss", [name for name, row in LOSSES.items() if row.only != "text" and not row.reads_gap]
)
def test_every_loss_trains_on_images(models, pairs, tmp_path, loss):
    out = tmp_path / "run"
    train(
        *flags(
            models(), pairs, out, loss_type=loss, max_train_steps=2, gradient_accumulation_steps=2
        )
    )
    lines = metrics(out)
    assert len(lines) == 2
    assert lines[1]["grad_norm"] > 0
    assert any(
        bool((w != 0).any())
        for name, w in weights(out).items()
        if "lora_B" in name or "lora.up" in name
    )


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("ipo", marks=pytest.mark.slow)])
def test_margins_grow_when_the_same_pairs_come_again(models, tmp_path, loss):
    data = make_pairs(tmp_path / "few", 2)
    plain = {"no_hflip": True, "proportion_empty_prompts": 0, "train_batch_size": 2, "rank": None}
    several = {
        "timesteps_per_pair": 8,
        "beta_dpo": 200,
        "learning_rate": 5e-4,
        "max_train_steps": 40,
    }
    train(*flags(models(), data, tmp_path / "run", loss_type=loss, **plain, **several))
    margins = [line["rewards/margins"] for line in metrics(tmp_path / "run")]
    assert sum(margins[-15:]) / 15 > 0.1


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_the_cut_into_processes_and_micro_batches_changes_nothing(models, pairs, tmp_path, loss):
    """1 × 4, 2 × 2 and 1 × 1 × 4 accumulated: the same losses to float32 rounding."""
    cuts = {"whole": {}, "accumulated": {"train_batch_size": 1, "gradient_accumulation_steps": 4}}
    for name, changes in cuts.items():
        train(*flags(models(), pairs, tmp_path / name, loss_type=loss, **changes))
    words = flags(models(), pairs, tmp_path / "processes", loss_type=loss, train_batch_size=2)
    found = run_two(script("train_diffusion_dpo", *words))
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("4 pairs = 2 x 1 accumulated x 2 processes") == 1
    reference = metrics(tmp_path / "whole")
    for name in ("accumulated", "processes"):
        other = metrics(tmp_path / name)
        assert len(other) == 4
        for a, b in zip(reference, other, strict=True):
            assert b == pytest.approx(
                a, rel=5e-3, abs=2e-3
            )  # float32 rounding of the errors, times beta 5000


@pytest.mark.slow  # the short kill matrix keeps this promise in every run of the tests
def test_a_killed_run_goes_on_to_the_same_end(models, pairs, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    changes = {
        "max_train_steps": 40,
        "checkpointing_steps": 3,
        "checkpoints_total_limit": 2,
        "mixed_precision": "bf16",
    }
    train(*flags(models(), pairs, straight, **changes))
    command = script(
        "train_diffusion_dpo",
        *flags(models(), pairs, killed, resume_from_checkpoint="latest", **changes),
    )
    for least in (1, 5, 17):
        process = Started(command)
        wait_for_lines(process, killed, least)
        process.kill()
        process.communicate()
    assert run_forked(command).returncode == 0
    assert metrics(killed) == metrics(straight)
    assert same(weights(killed), weights(straight))
    assert len(list(killed.glob("checkpoint-*"))) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_saves_and_says_how_to_go_on(models, pairs, tmp_path, number):
    out = tmp_path / "run"
    command = script("train_diffusion_dpo", *flags(models(), pairs, out, max_train_steps=5000))
    process = Started(command)
    wait_for_lines(process, out, 2)
    process.send_signal(number)
    printed, complaint = process.communicate(timeout=60)
    assert process.returncode == 3, complaint
    last = metrics(out)[-1]["step"]
    assert (out / f"checkpoint-{last}").is_dir()
    assert f"after step {last} of 5000" in printed
    assert not (out / "pytorch_lora_weights.safetensors").exists()


def test_the_written_settings_repeat_the_run(models, pairs, tmp_path):
    train(*flags(models(), pairs, tmp_path / "one", max_train_steps=2))
    train("--config", tmp_path / "one" / "config.yaml", "--output_dir", tmp_path / "two")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    saved = yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())
    assert saved["resolution"] == 32
    assert saved["mixed_precision"] == "no"


def test_soft_ties_are_trained_on(models, pairs, tmp_path, capsys):
    train(*flags(models(), pairs, tmp_path / "run", ties="soft"))
    assert "15 of 15 rows; 3 ties kept" in capsys.readouterr().out


def test_validation_lays_policy_beside_reference(models, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    seen = {
        "run_validation": True,
        "validation_steps": 2,
        "num_inference_steps": 2,
        "validation_prompts": ["a", "b"],
    }
    train(*flags(models(), pairs, out, max_train_steps=3, report_to="tensorboard", **seen))
    assert sorted(path.name for path in (out / "validation").iterdir()) == [
        "diversity.jsonl",
        "step-2.png",
        "step-3.png",
    ]
    assert list(out.glob("logs/**/events*"))
    # Two pictures of each prompt, by reference and policy.
    with Image.open(out / "validation" / "step-3.png") as sheet:
        assert sheet.size == (190 + 4 * 128, 24 + 2 * 128)
    lines = read_jsonl(out / "validation" / "diversity.jsonl")
    assert [line["step"] for line in lines] == [2, 3]
    assert all(line["diversity/reference"] > 0 and not line["collapsed"] for line in lines)
    assert capsys.readouterr().out.count("\ndiversity    step ") == 2


def test_other_optimizers_and_schedules(models, pairs, tmp_path, capsys):
    train(*flags(models(), pairs, tmp_path / "a", use_adafactor=True, scale_lr=True))
    assert metrics(tmp_path / "a")[0]["lr"] == pytest.approx(4e-3)
    train(
        *flags(
            models(),
            pairs,
            tmp_path / "b",
            use_8bit_adam=True,
            lr_scheduler="constant_with_warmup",
            lr_warmup_steps=4,
        )
    )
    assert "bitsandbytes is not installed" in capsys.readouterr().out
    assert [line["lr"] for line in metrics(tmp_path / "b")] == pytest.approx(
        [0, 2.5e-4, 5e-4, 7.5e-4]
    )


def test_a_dry_run_changes_nothing(models, pairs, tmp_path):
    train(*flags(models(), pairs, tmp_path / "run", learning_rate=0))
    assert all(line["rewards/margins"] == 0 for line in metrics(tmp_path / "run"))


def test_gradient_checkpointing_changes_no_number(models, pairs, tmp_path):
    for name, on in (("plain", None), ("checkpointed", True)):
        train(
            *flags(
                models(),
                pairs,
                tmp_path / name,
                gradient_checkpointing=on,
                rank=None,
                max_train_steps=2,
            )
        )
    for a, b in zip(*(metrics(tmp_path / name) for name in ("plain", "checkpointed")), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


# A second Ctrl-C, which ends the process at once: after a step that is being saved, or none.
INTERRUPTED = """
import sys, time
from diffdpo.cli import main
from diffdpo.engine import checkpoint, interrupts, trainer
whole = checkpoint.write
def slowly(*arguments):
    time.sleep(1)
    return whole(*arguments)
def fit(self, start, after_step=None):
    interrupts.moment.checkpoints = self.keeper.checkpoints
    {saving}
    raise KeyboardInterrupt
checkpoint.write, trainer.Trainer.fit = slowly, fit
sys.exit(main(["train_diffusion_dpo", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("saving", "line"),
    [
        (
            "self.keeper.save(3)",
            "checkpoint-3 is whole, go on with --resume_from_checkpoint latest",
        ),
        ("pass", "interrupted; no checkpoint was saved"),
    ],
)
def test_an_interrupted_run_says_what_it_leaves(models, pairs, tmp_path, saving, line):
    words = flags(models(), pairs, tmp_path / "run")
    found = run_forked([sys.executable, "-c", INTERRUPTED.format(saving=saving), *map(str, words)])
    assert found.returncode == 130
    assert found.stderr.strip().splitlines()[-1].endswith(line)
    assert (tmp_path / "run" / "checkpoint-3").is_dir() == ("3" in line)
