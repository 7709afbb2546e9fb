"""The real command line on real files: two steps, resume, processes, mistakes."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from diffdpo.cli import run_command
from diffdpo.image.settings import ImageSettings
from diffdpo.losses import LOSSES
from tests.conftest import ROOT, accelerate, run, script
from tests.factory import make_pairs, read_jsonl
from tests.processes import Started, run_forked, run_two

TIMED = {"pairs_per_second"}


def flags(model, data, out, **changes):
    settings = {
        "pretrained_model_name_or_path": model,
        "dataset_name": data,
        "output_dir": out,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "rank": 4,
    } | changes
    words = []
    for name, value in settings.items():
        if value is not None:
            words += [
                f"--{name}",
                *(
                    map(str, value)
                    if isinstance(value, list)
                    else []
                    if value is True
                    else [str(value)]
                ),
            ]
    return words


def train(*words):
    """In this process, through the function that the script calls."""
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 0


def metrics(out):
    return [
        {k: v for k, v in line.items() if k not in TIMED}
        for line in read_jsonl(Path(out) / "metrics.jsonl")
    ]


def weights(out):
    return load_file(Path(out) / "pytorch_lora_weights.safetensors")


def same(a, b):
    return set(a) == set(b) and all(bool((a[name] == b[name]).all()) for name in a)


def wait_for_lines(process, out, count):
    """Until the run has written so many metrics, or has ended."""
    while process.poll() is None:
        path = Path(out) / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.01)


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
        "learning_rate": 2e-4,
        "max_train_steps": 60,
    }
    train(*flags(models(), data, tmp_path / "run", loss_type=loss, **plain, **several))
    margins = [line["rewards/margins"] for line in metrics(tmp_path / "run")]
    assert sum(margins[-30:]) / 30 > 0.1


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


def test_validation_lays_policy_beside_reference(models, pairs, tmp_path):
    out = tmp_path / "run"
    seen = {
        "run_validation": True,
        "validation_steps": 2,
        "num_inference_steps": 2,
        "validation_prompts": ["a", "b"],
    }
    train(*flags(models(), pairs, out, max_train_steps=3, report_to="tensorboard", **seen))
    assert sorted(path.name for path in (out / "validation").iterdir()) == [
        "step-2.png",
        "step-3.png",
    ]
    assert list(out.glob("logs/**/events*"))


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


# What newcomers do wrong: one line each on stderr, exit code 2, no traceback.
MISTAKES = {
    "no model": ({"pretrained_model_name_or_path": "/no/such/model"}, "no such folder"),
    "no data": ({"dataset_name": "/no/such/data"}, "no such file or folder"),
    "no split": ({"dataset_split_name": "tset"}, "has no split 'tset'; found train"),
    "unknown loss": ({"loss_type": "sigmod"}, "unknown"),
    "text loss": ({"loss_type": "orpo"}, "token log-probabilities"),
    "beta": ({"beta_dpo": 0}, "--beta_dpo must be above 0"),
    "batch": ({"train_batch_size": 0}, "--train_batch_size must be at least 1"),
    "rate": ({"learning_rate": "nan"}, "--learning_rate"),
    "resolution": ({"resolution": 33}, "not a multiple of 2; take 32"),
    "smoothing": ({"loss_type": "hinge", "label_smoothing": 0.1}, "these have: sigmoid"),
    "labelling": ({"choice_model": "pickscore"}, "labels are a separate step"),
    "wrong family": ({"sdxl": True}, "leave the flag out"),
    "no checkpoint": ({"resume_from_checkpoint": "checkpoint-7"}, "no such checkpoint"),
    "typo": ({"beta_dop": 1}, "did you mean --beta_dpo?"),
}


@pytest.mark.parametrize(("changes", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(models, pairs, tmp_path, capsys, changes, line):
    words = flags(models(), pairs, tmp_path / "run", **changes)
    capsys.readouterr()  # of making the model
    code = run_command("train_diffusion_dpo", words)
    shown = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(shown) == 1
    assert shown[0].startswith("error: ")
    assert line in shown[0]


def test_all_wrong_settings_are_named_at_once(models, pairs, tmp_path, capsys):
    changes = {"beta_dpo": -1, "train_batch_size": 0, "learning_rate": -1, "ties": "keep"}
    assert (
        run_command("train_diffusion_dpo", flags(models(), pairs, tmp_path / "run", **changes)) == 2
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


def test_mistakes_leave_no_traceback_in_a_real_process(models, pairs, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    found = run_forked(script("train_diffusion_dpo", *flags(models(), pairs, blocked)))
    assert found.returncode == 2
    assert (
        found.stderr.strip()
        == f"error: --output_dir {blocked}: is there and is not a folder; choose another name"
    )


def test_two_processes_say_a_mistake_once(models, pairs, tmp_path):
    words = flags(models(), tmp_path, tmp_path / "run")
    found = run_two(script("train_diffusion_dpo", *words))
    assert found.returncode != 0
    assert sum(line.startswith("error: ") for line in found.stderr.splitlines()) == 1


def test_data_mistakes(models, tmp_path, capsys):
    def fails_with(data, line, **changes):
        code = run_command(
            "train_diffusion_dpo", flags(models(), data, tmp_path / "run", **changes)
        )
        assert code == 2
        assert line in capsys.readouterr().err

    fails_with(make_pairs(tmp_path / "ties", 3, ties=3), "all 3 rows are ties")
    (tmp_path / "columns.jsonl").write_text('{"image": "a.png", "text": "b"}\n')
    fails_with(tmp_path / "columns.jsonl", "needed are pick-a-pic: jpg_0")
    (tmp_path / "broken.jsonl").write_text('{"chosen": \n')
    fails_with(tmp_path / "broken.jsonl", "cannot be read")
    (tmp_path / "empty.jsonl").write_text("")
    fails_with(tmp_path / "empty.jsonl", "data set")
    fails_with(
        make_pairs(tmp_path / "good"), "no row has two dreamlike images", dreamlike_pairs_only=True
    )


def test_a_folder_with_another_run_is_not_continued_unasked(models, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, checkpointing_steps=2))
    before = (out / "metrics.jsonl").read_bytes()

    def refused(line, **changes):
        assert run_command("train_diffusion_dpo", flags(models(), pairs, out, **changes)) == 2
        assert line in capsys.readouterr().err
        assert (out / "metrics.jsonl").read_bytes() == before

    refused("holds another run")
    refused("--beta_dpo 5000.0, this one 1.0", resume_from_checkpoint="latest", beta_dpo=1)
    refused("effective batch is 4, not 2", resume_from_checkpoint="latest", train_batch_size=2)
    refused(
        "other data",
        resume_from_checkpoint="latest",
        dataset_name=make_pairs(tmp_path / "other", 5),
    )
    shutil.copytree(out / "checkpoint-4", tmp_path / "foreign")
    state = json.loads((tmp_path / "foreign" / "state.json").read_text())
    (tmp_path / "foreign" / "state.json").write_text(json.dumps(state | {"format": "x"}))
    refused("not a checkpoint of diffdpo", resume_from_checkpoint=tmp_path / "foreign")
    broken = out / "checkpoint-4" / "optimizer.safetensors"
    broken.write_bytes(broken.read_bytes()[:50])
    refused("damaged", resume_from_checkpoint="checkpoint-4")


# The launch commands of the two older scripts, as printed in their READMEs and launchers; paths,
# data and step counts replaced.
OLD_COMMANDS = {
    "diffusers SD": (
        "--mixed_precision=fp16 --resolution=32 --train_batch_size=16"
        " --gradient_accumulation_steps=2 --gradient_checkpointing --use_8bit_adam --rank=8"
        " --learning_rate=1e-5 --report_to=wandb --lr_scheduler=constant --lr_warmup_steps=0"
        " --max_train_steps=1 --checkpointing_steps=2000 --run_validation --validation_steps=200"
        " --seed=0 --report_to=wandb --push_to_hub"
    ),
    "Salesforce SD": (
        "--train_batch_size=1 --dataloader_num_workers=2 --gradient_accumulation_steps=4"
        " --max_train_steps=1 --lr_scheduler=constant_with_warmup --lr_warmup_steps=500"
        " --learning_rate=1e-8 --scale_lr --cache_dir={cache} --checkpointing_steps 500 --beta_dpo"
        " 5000"
    ),
    "Salesforce SDXL": (
        "--pretrained_vae_model_name_or_path={xl} --train_batch_size=1"
        " --gradient_accumulation_steps=2 --max_train_steps=1 --lr_scheduler=constant_with_warmup"
        " --lr_warmup_steps=200 --learning_rate=1e-8 --scale_lr --cache_dir={cache}"
        " --checkpointing_steps 200 --beta_dpo 5000 --sdxl"
    ),
    "Salesforce turbo": (
        "--train_batch_size=1 --gradient_accumulation_steps=2 --max_train_steps=1"
        " --learning_rate=1e-8 --scale_lr --beta_dpo 5000 --sdxl --resolution 32"
        " --proportion_empty_prompts 0 --hard_skip_resume"
    ),
    "diffusers turbo": (
        "--pretrained_vae_model_name_or_path={xl} --mixed_precision=fp16 --train_batch_size=8"
        " --gradient_accumulation_steps=2 --gradient_checkpointing --use_8bit_adam --rank=8"
        " --learning_rate=1e-5 --lr_scheduler=constant --lr_warmup_steps=0 --max_train_steps=1"
        " --validation_steps=50 --seed=0 --is_turbo --resolution 32"
    ),
}


@pytest.mark.parametrize("name", OLD_COMMANDS)
def test_the_older_scripts_commands_run_as_they_are(models, pairs, tmp_path, name):
    xl = models("StableDiffusionXLPipeline")
    model = xl if "SDXL" in name or "turbo" in name else models()
    words = OLD_COMMANDS[name].format(cache=tmp_path / "cache", xl=xl).split()
    fixed = [
        f"--pretrained_model_name_or_path={model}",
        f"--dataset_name={pairs}",
        f"--output_dir={tmp_path / 'run'}",
    ]
    train(*fixed, *words)
    assert len(metrics(tmp_path / "run")) == 1


def test_every_flag_of_the_older_scripts_is_known():
    listed = (ROOT / "tests" / "commands" / "old_flags.txt").read_text().split()
    known = (
        set(ImageSettings.__dataclass_fields__)
        | set(ImageSettings.inert())
        | {"split", "tracker_project_name", "image_column", "caption_column"}
    )
    assert not set(listed) - known


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
