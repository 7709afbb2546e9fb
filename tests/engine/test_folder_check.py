"""The output folder is the run's own: what it may lie in, hold, and go on from."""

import json

import pytest

from diffdpo.engine import folder_check, lock
from diffdpo.engine.folder_check import check_content, check_place, mend_metrics
from diffdpo.engine.run_folder import save_yaml
from diffdpo.errors import UserError
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings


def text(out, **settings):
    return TextSettings(output_dir=str(out), **{k: str(v) for k, v in settings.items()})


def refused(line, check, *arguments):
    with pytest.raises(UserError) as caught:
        check(*arguments)
    assert line in str(caught.value)


def test_every_setting_that_names_a_model_or_data_is_looked_at():
    """A new one whose name ends otherwise would be passed over."""
    words = ("path", "model", "dataset", "data_dir", "init", "adapter")
    names = {f for c in (ImageSettings, TextSettings) for f in c.__dataclass_fields__}
    suspects = {name for name in names if any(word in name for word in words)}
    looked_at = {n for n in suspects if n.endswith(folder_check.MODELS + folder_check.DATA)}
    others = suspects - looked_at
    assert {"model_name_or_path", "unet_init", "dataset_name", "train_data_dir"} <= looked_at
    assert not {n for n in others if n.endswith(("path", "dir", "dataset", "adapter", "init"))}


@pytest.mark.parametrize("where", ["{}", "{}/sub/run", "{}/../link"])
@pytest.mark.parametrize("flag", ["model_name_or_path", "ref_model_name_or_path", "dataset_name"])
def test_output_and_inputs_lie_apart(tmp_path, where, flag):
    folder = tmp_path / "input"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    refused(f"--{flag} {folder}; choose", check_place, text(where.format(folder), **{flag: folder}))
    check_place(text(tmp_path / "run", **{flag: folder}))


def test_a_model_inside_the_output_is_refused_and_data_are_not(tmp_path):
    (tmp_path / "sub").mkdir()
    refused("holds the folder of", check_place, text(tmp_path, model_name_or_path=tmp_path / "sub"))
    check_place(text(tmp_path, dataset_name=tmp_path / "sub"))
    image = ImageSettings(output_dir=str(tmp_path), unet_init=str(tmp_path / "sub"))
    refused("--unet_init", check_place, image)


def test_the_base_of_an_adapter_counts_as_its_model(tmp_path):
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    config = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    settings = text(tmp_path / "base", model_name_or_path=tmp_path / "adapter")
    refused("is the folder of", check_place, settings)


def test_a_finished_run_without_checkpoints_is_not_started_over(tmp_path):
    settings = text(tmp_path, resume_from_checkpoint="latest")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "adapter_model.safetensors").touch()
    refused("no checkpoint is left (adapter_model", check_content, settings, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("steps", "goes_on"), [(0, True), (7, True), (8, True), (9, False)])
def test_a_run_stopped_before_its_first_checkpoint_starts_over(tmp_path, steps, goes_on):
    settings = TextSettings(
        output_dir=str(tmp_path), resume_from_checkpoint="latest", checkpointing_steps=4
    )
    save_yaml(settings, tmp_path / "config.yaml")
    lines = "".join(json.dumps({"step": step + 1}) + "\n" for step in range(steps))
    (tmp_path / "metrics.jsonl").write_text(lines)
    if goes_on:
        check_content(settings, tmp_path)
    else:
        refused("metrics.jsonl has 9 steps", check_content, settings, tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer.json", "config.json", "unet", "vae"])
@pytest.mark.parametrize("resume", [None, "latest"])
def test_files_of_the_user_are_not_replaced(tmp_path, name, resume):
    settings = TextSettings(output_dir=str(tmp_path), resume_from_checkpoint=resume)
    (tmp_path / "notes.txt").touch()
    check_content(settings, tmp_path)
    (tmp_path / name).write_text("learning_rate: 1\n")
    refused(f"holds {name}, which the run would replace", check_content, settings, tmp_path)


def test_metrics_that_a_power_cut_left_are_mended_and_others_refused(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1, "loss": NaN}\n{"step": 2}\n'
    path.write_bytes(good.encode() + b"\0\0\0\n\xff\xfe\n")
    mend_metrics(path)
    assert path.read_text() == good
    assert "2 damaged lines" in capsys.readouterr().out
    for broken in ("[1]\n", '{"loss": 1}\n', '{"step": "1"}\n', "[" * 100_000 + "\n"):
        path.write_text('{"step": 1}\n' + broken + '{"step": 3}\n')
        refused("line 2: is not the record of a step", mend_metrics, path)
        path.write_text(broken)
        refused("line 1: is not", mend_metrics, path)
    path.unlink()
    mend_metrics(path)


def test_half_a_last_line_of_broken_text_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step\xff')
    mend_metrics(path)
    assert path.read_text() == '{"step": 1}\n'


def teardown_function():
    lock.release()
