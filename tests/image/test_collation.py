"""What data workers do with pairs: all that is random, and without a network."""

import pickle
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from diffdpo.engine.batches import Stream
from diffdpo.engine.transfer import each_tensor, on_device
from diffdpo.image.backbones import backbone_of
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.scoring.collation import ImageBatch
from diffdpo.image.settings import ImageSettings
from tests.factory import pickapic_rows, whole_pipeline
from tests.families.work import batch_of, settings_of, task_of

META = torch.device("meta")


def same(one, other):
    """Whether two batches have the same values, tensors to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def assert_same(one, other):
    assert isinstance(one, ImageBatch)
    assert [name for name in vars(one) if not same(vars(one)[name], vars(other)[name])] == []


def test_collation_is_small_and_gives_the_same_batch_after_a_journey(backbone, folder, family):
    """Less than the tables of a forward process: no scheduler, no network, no pipeline."""
    task = task_of(backbone, settings_of(folder, family))
    message = pickle.dumps(task.collate)
    assert len(message) < 4096
    pictures = batch_of(task, family, pairs=2)
    task.collate = pickle.loads(message)
    assert_same(batch_of(task, family, pairs=2), pictures)


def test_the_shape_that_is_drawn_is_the_shape_that_is_encoded(backbone, folder, family):
    task = task_of(backbone, settings_of(folder, family))
    batch = batch_of(task, family)
    mean, std = backbone.encode_images(batch.byte_NCHW, 1)
    assert mean.shape == std.shape == batch.posterior_noise.shape
    assert batch.noise_D.shape == mean[:1].shape


@pytest.mark.slow
def test_a_spawned_worker_gives_the_same_batch():
    """It starts empty: all that it knows was sent to it."""
    backbone = backbone_of(whole_pipeline("StableDiffusionPipeline"))
    settings = ImageSettings(resolution=32)
    task = task_of(backbone, settings)
    rows = image_pairs(Dataset.from_list(pickapic_rows(4)), FrameSettings(0, 32, flip=True))
    plan, options = [[0, 1], [2, 3], [4, 5]], {"collate_fn": task.collate}
    spawned = {"num_workers": 1, "multiprocessing_context": "spawn"}
    here, there = (
        list(DataLoader(Stream(rows, 0), batch_sampler=plan, **options, **more))
        for more in ({}, spawned)
    )
    assert len(here) == 3
    for one, other in zip(here, there, strict=True):
        assert_same(one, other)


def test_a_batch_carries_bytes_once_and_noise_for_one_side():
    task = task_of(
        backbone_of(whole_pipeline("StableDiffusionPipeline")), ImageSettings(resolution=32)
    )
    batch = batch_of(task, "StableDiffusionPipeline", pairs=3)
    tensors = []
    each_tensor(batch, lambda tensor: tensors.append(tensor) or tensor)
    assert not any(hasattr(image, "byte_CHW") for image in batch.images)
    cells = 3 * 4 * 16 * 16
    assert sum(one.nbytes for one in tensors if one.dtype == torch.uint8) == 6 * 3 * 32 * 32
    assert sum(one.numel() for one in tensors if one.dtype == torch.float32) == cells + 2 * cells


def test_every_tensor_of_a_batch_moves_and_lists_stay(monkeypatch):
    """By one copy each that is not waited for, and pinned where a loader pins."""
    task = task_of(
        backbone_of(whole_pipeline("StableDiffusionPipeline")), ImageSettings(resolution=32)
    )
    batch = replace(batch_of(task, "StableDiffusionPipeline"), condition={"a_ND": torch.ones(1, 2)})
    moved = on_device(batch, META)
    there = []
    each_tensor(moved, lambda tensor: there.append(tensor.device) or tensor)
    assert len(there) == 5
    assert set(there) == {META}
    assert (moved.pairs, moved.prompts) == (batch.pairs, batch.prompts)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert_same(pin_memory(batch), batch)
    assert len(pinned) == 5
