"""Commands of the older scripts run as they are."""

import pytest

from diffdpo.image.settings import ImageSettings
from tests.commands.image_runs import metrics, train
from tests.conftest import ROOT

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
