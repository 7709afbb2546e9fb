"""Where networks compute, and what stays on the card."""

from __future__ import annotations

import gc

import pytest
import torch

from diffdpo.cli import main, run_command
from tests.commands.image_runs import flags, metrics, train
from tests.text import runs

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_plots")]
SMALL = "--num_inference_steps 2 --sample_batch_size 3 --num_prompts 2 --images_per_prompt 1"


def kinds(network):
    """The kinds of devices that hold a network's weights."""
    return {weight.device.type for weight in network.parameters()}


def held(device):
    """Bytes of the tensors on the device that this program holds; libraries' workspaces are not
    among them, and on a CPU tensors of other tests are."""
    if device.type == "cpu":
        return 0
    gc.collect()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor) and each.device.type == device.type
    }
    return sum(storages.values())


@pytest.fixture
def sampled_on(monkeypatch):
    """The kinds of devices on which UNets have run."""
    from diffusers import UNet2DConditionModel

    seen, forward = set(), UNet2DConditionModel.forward

    def watched(self, *args, **options):
        seen.update(kinds(self) - {"meta"})  # a look at shapes, without numbers
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    return seen


def test_a_full_fine_tune_is_judged_with_both_networks_on_the_device(
    device, models, pairs, tmp_path, sampled_on, monkeypatch
):
    from diffdpo.reference import FrozenCopy

    copies, score = set(), FrozenCopy.score

    def watched(self, *args):
        copies.update(kinds(self.copy))
        return score(self, *args)

    monkeypatch.setattr(FrozenCopy, "score", watched)
    train(*flags(models(), pairs, tmp_path / "run", rank=None, max_train_steps=2))
    assert copies == {device.type}
    copies.clear()
    words = ["--pretrained_model_name_or_path", models(), "--dataset_name", pairs]
    words += ["--policy", tmp_path / "run", "--output_dir", tmp_path / "judged", "--split", "train"]
    words += [*SMALL.split(), "--implicit_draws", "1"]
    assert main(["evaluate", *map(str, words)]) == 0
    assert copies == sampled_on == {device.type}


def test_candidates_are_sampled_by_networks_on_the_device(device, models, tmp_path, sampled_on):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\na blue circle\n")
    words = ["--pretrained_model_name_or_path", models(), "--prompts", prompts]
    words += ["--candidates", "2", "--num_inference_steps", "1", "--reward", "colourfulness"]
    words += ["--output_dir", tmp_path / "out", "--precompute_dir", tmp_path / "tables"]
    assert run_command("make_pairs", [str(word) for word in words]) == 0
    assert sampled_on == {device.type}


def test_encoders_are_gone_once_their_output_is_stored(
    device, models, pairs, tmp_path, monkeypatch
):
    from diffdpo.engine.trainer import Trainer

    seen, fit = {}, Trainer.fit

    def watched(trainer, *args, **options):
        encoders = trainer.task.backbone.encoders()
        weights = sum(w.nbytes for w in trainer.model.parameters())
        seen.update(encoders=encoders, weights=weights, network=kinds(trainer.model))
        seen["held"] = held(device)
        return fit(trainer, *args, **options)

    monkeypatch.setattr(Trainer, "fit", watched)
    stored = {"cache_latents": True, "precompute_dir": tmp_path / "tables"}
    train(*flags(models(), pairs, tmp_path / "run", **stored))
    assert seen["encoders"] == []
    assert seen["network"] == {device.type}
    assert seen["held"] < 1.2 * seen["weights"] + 2**20


@pytest.mark.parametrize("modality", ["image", "text"])
def test_workers_read_beside_the_device_and_change_no_number(
    device, models, pairs, lm, data, tmp_path, modality
):
    """A worker that touched the card would fail: CUDA cannot begin again in a fork."""
    for workers in (0, 2):
        out, more = tmp_path / str(workers), {"dataloader_num_workers": workers}
        more |= {"deterministic": True, "max_train_steps": 3}
        if modality == "image":
            train(*flags(models(), pairs, out, **more))
        else:
            runs.train(*runs.flags(lm, data["pairs"], out, **more))
    assert metrics(tmp_path / "0") == metrics(tmp_path / "2")
