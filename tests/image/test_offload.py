"""Frozen weights in host memory: the same numbers, and never more than one block on the device."""

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffdpo.engine.finite import plain_tensors
from diffdpo.image.backbones import BACKBONES, load_backbone, offload
from diffdpo.image.model.network import make_reference, make_trainable
from tests.families.work import batch_of, settings_of, step_of, task_of

CPU, META = torch.device("cpu"), torch.device("meta")
QUICK = ["StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"]
IN_FULL = ["PixArtSigmaPipeline", "HunyuanDiTPipeline"]  # no LoRA of theirs is loaded by diffusers
FAMILIES = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in BACKBONES
    if name not in IN_FULL
]
READ_NUMBERS = ["ZImagePipeline", "Lumina2Pipeline", "CogView4Pipeline"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def opened(folder, family, dtype=torch.float32, device=CPU, **changes):
    settings = settings_of(folder, family, **changes)
    backbone = load_backbone(str(folder), dtype=dtype, base_precision=settings.base_precision)
    return settings, backbone, make_trainable(backbone, settings, dtype, device).train()


def trained_in(network):
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def steps(opened, family, half=False):
    """The losses of two steps, and the gradient of every adapter in the second, where they are no
    longer zero."""
    settings, backbone, network = opened
    reference, task = make_reference(network, settings), task_of(backbone, settings)
    trained, losses = trained_in(network), []
    for _ in range(2):
        _, loss_B = step_of(task, reference, network, family, half)
        losses.append(loss_B.item())
        loss_B.mean().backward()
        gradients = {n: w.grad for n, w in trained.items() if w.grad is not None}
        with torch.no_grad():
            for name, gradient in gradients.items():
                trained[name] -= 1e-2 * gradient.sign()
                trained[name].grad = None
    return losses, gradients


def assert_same(first, second):
    (losses, gradients), (others, against) = first, second
    assert losses == others
    assert losses[0] == pytest.approx(math.log(2), abs=1e-7)
    assert losses[1] != losses[0]
    assert gradients.keys() == against.keys()
    assert all(torch.equal(value, against[name]) for name, value in gradients.items())
    assert any(bool(value.any()) for name, value in gradients.items() if "lora_A" in name)


def test_numbers_are_those_without_it(folder, family):
    plain = steps(opened(folder, family), family)
    assert_same(plain, steps(opened(folder, family, offload=True), family))


class Watch(TorchDispatchMode):
    """Counts copies that are made and, through weak references, those that are alive; refuses
    whatever else reads a weight on the host."""

    def __init__(self, network, monkeypatch):
        super().__init__()
        self.block, self.made, self.alive, self.most, self.hosts = {}, [], [], 0, set()
        for index, weights in enumerate(offload.host_weights(network)):
            self.block |= {id(weight): index for weight in weights}
            plain = [one for weight in weights for _, one in plain_tensors("", weight)]
            self.hosts |= {one.untyped_storage().data_ptr() for one in plain}
        copied = offload.copied

        def counted(weight, device):
            self.made.append(self.block[id(weight)])
            copy = copied(weight, device)
            self.alive.append((self.made[-1], weakref.ref(copy)))
            self.most = max(self.most, len(self.blocks()))
            return copy

        monkeypatch.setattr(offload, "copied", counted)

    def blocks(self):
        """The blocks of which a copy is alive."""
        return {block for block, copy in self.alive if copy() is not None}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name not in ("aten::_to_copy", "aten::detach"):
            read = [x for x in tree_leaves((args, kwargs or {})) if type(x) is torch.Tensor]
            assert not {x.untyped_storage().data_ptr() for x in read} & self.hosts, function
        return function(*args, **(kwargs or {}))


def test_one_block_has_copies_at_a_time(folder, family, monkeypatch):
    settings, backbone, network = opened(folder, family, offload=True)
    task, reference = task_of(backbone, settings), make_reference(network, settings)
    with torch.no_grad():
        for weight in trained_in(network).values():
            weight.add_(0.01)
    draw = task.draw(batch_of(task, family))
    with Watch(network, monkeypatch) as watch:
        blocks = sorted(watch.block.values())
        reference.score(task.score, network, draw)
        assert sorted(watch.made) == blocks
        assert not watch.blocks()
        watch.made.clear()
        score_N = task.score(network, draw).score_N
        forward = list(dict.fromkeys(watch.made))
        assert sorted(watch.made) == blocks
        assert not watch.blocks()  # the graph keeps none
        watch.made.clear()
        score_N.sum().backward()
    again = list(dict.fromkeys(watch.made))
    assert again == [block for block in reversed(forward) if block in again]
    assert len(watch.made) == sum(block in again for block in blocks)  # once each
    # A block needs none where no adapter lies in it or before it.
    assert adapted_in(network) <= set(again)
    assert watch.most == 1
    assert not watch.blocks()


def adapted_in(network):
    """The numbers of the blocks that have adapters."""
    blocks = [block for block in network.modules() if runs_from_host(block)]
    return {index for index, block in enumerate(blocks) if trained_in(block)}


def runs_from_host(module):
    return isinstance(getattr(module, "forward", None), offload.FromHost)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, but for copies."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        devices = {x.device.type for x in tree_leaves((args, kwargs or {}))
                   if isinstance(x, torch.Tensor) and x.dim()}  # fmt: skip
        assert len(devices) < 2 or function._schema.name in ("aten::copy_", "aten::_to_copy"), (
            f"{function} on {devices}"
        )
        return function(*args, **(kwargs or {}))


def test_what_is_computed_lies_on_the_device(folder, family):
    """Of a device without numbers, in forward and backward pass."""
    settings, backbone, network = opened(folder, family, device=META, offload=True)
    assert network.device == META  # diffusers' pipelines ask the network where to work
    hosts = {id(weight) for weights in offload.host_weights(network) for weight in weights}
    for weight in network.parameters():
        assert weight.device == (CPU if id(weight) in hosts else META)
    assert hosts
    assert all(weight.device == META for weight in network.buffers())
    if family in READ_NUMBERS:
        pytest.skip("the network reads how long prompts are")
    task = task_of(backbone, settings)
    draw = task.draw(batch_of(task, family))
    moved = {name: value.to(META) for name, value in draw.condition.items()}
    with OneDevice():
        output = backbone.predict(network, draw.noisy.to(META), draw.timestep_N.to(META), moved)
        output.sum().backward()
    assert output.device == META
    assert any(weight.grad is not None for weight in trained_in(network).values())


def test_blocks_are_what_the_network_itself_would_compute_again(folder, family):
    """So that --gradient_checkpointing has nothing to add, and nothing is computed twice."""
    settings, backbone, network = opened(folder, family)
    blocks, seen = set(offload.blocks_of(network)), []

    def recorded(module, *arguments):
        seen.append(module)
        return module(*arguments)

    network.enable_gradient_checkpointing(recorded)
    task = task_of(backbone, settings)
    task.score(network, task.draw(batch_of(task, family)))
    assert set(seen) <= blocks
