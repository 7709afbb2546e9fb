"""What holds for every family of the table: it trains from an exact start."""

import math
import pickle

import pytest
import torch

from diffdpo.engine.load_once import hollow
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, family_of, load_backbone
from diffdpo.image.model.network import make_reference, make_trainable
from diffdpo.image.settings import ImageSettings
from diffdpo.losses import preference_loss
from diffdpo.preference import implicit_reward
from tests.families import factory, side
from tests.families.work import CPU, batch_of, fresh, inputs, settings_of, task_of


def test_checkpointing_changes_nothing(backbone, family):
    network = backbone.network
    if not network._supports_gradient_checkpointing:
        with pytest.raises(UserError, match="gradient_checkpointing"):
            make_trainable(
                backbone, ImageSettings(rank=None, gradient_checkpointing=True), torch.float32, CPU
            )
        return
    call = inputs(backbone, family)
    results = []
    for checkpointed in (False, True):
        settings = ImageSettings(rank=None, gradient_checkpointing=checkpointed)
        make_trainable(backbone, settings, torch.float32, CPU).train()
        network.zero_grad()
        output = backbone.predict(network, *call)
        output.square().mean().backward()
        results.append((output.detach(), [weight.grad for weight in network.parameters()]))
    (plain, gradients), (output, others) = results
    assert torch.equal(plain, output)
    for one, other in zip(gradients, others, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_and_reference_begin_as_one(folder, family, dtype):
    whole = dtype == torch.float32
    backbone = fresh(folder) if whole else load_backbone(str(folder), dtype=dtype)
    settings = settings_of(folder, family, gradient_checkpointing=True)
    if not backbone.network._supports_gradient_checkpointing:
        settings = settings_of(folder, family)
    if not hasattr(backbone.network, "add_adapter"):
        settings = settings_of(folder, family).__class__(
            pretrained_model_name_or_path=str(folder), resolution=side(family), rank=None
        )
    network = make_trainable(backbone, settings, dtype, CPU)
    reference = make_reference(network, settings)
    task = task_of(backbone, settings)
    half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with half:
        network.train()
        draw = task.draw(batch_of(task, family))
        frozen_N = reference.score(task.score, network, draw)
        reward_N = implicit_reward(task.score(network, draw).score_N, frozen_N)
        loss_B = preference_loss("sigmoid", *reward_N.chunk(2), beta=5000.0)
        loss_B.mean().backward()
    assert reward_N.tolist() == [0.0, 0.0]
    assert loss_B.item() == pytest.approx(math.log(2), abs=1e-7)
    gradients = [weight.grad for weight in network.parameters() if weight.requires_grad]
    assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def test_adapters_reach_every_block(backbone, folder, family):
    if not hasattr(backbone.network, "add_adapter"):
        pytest.skip("it takes no adapters")
    network = make_trainable(backbone, settings_of(folder, family), torch.float32, CPU)
    adapted = [name for name, weight in network.named_parameters() if "lora" in name]
    blocks = {
        f"{name}.{index}"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        for index in range(len(module))
    }
    attended = {block for block in blocks if any("attn" in n or "attention" in n
                for n, _ in network.get_submodule(block).named_modules())}  # fmt: skip
    assert attended
    bare = {b for b in attended if not any(name.startswith(f"{b}.") for name in adapted)}
    assert not bare


def test_distilled_models_are_refused_unless_asked_for(family, tmp_path):
    kind = family_of(family)
    if kind.distilled.__func__ is kind.__mro__[-2].distilled.__func__:
        pytest.skip("its configuration does not tell")
    distilled = factory(family).tiny(distilled=True)
    distilled.save_pretrained(tmp_path)
    for load in (lambda: load_backbone(str(tmp_path)), lambda: backbone_of(distilled)):
        with pytest.raises(UserError, match=r"distilled.*--is_turbo"):
            load()
    assert type(backbone_of(distilled, is_turbo=True)) is kind
    assert type(load_backbone(str(tmp_path), is_turbo=True)) is kind


def test_its_form_can_be_sent_to_another_process(backbone):
    """Which has not read it: all but its weights."""
    sent = pickle.loads(pickle.dumps(hollow(backbone.network)))
    assert type(sent) is type(backbone.network)
    assert all(weight.is_meta for weight in sent.parameters())
    own, other = (
        {name: weight.shape for name, weight in network.named_parameters()}
        for network in (backbone.network, sent)
    )
    assert own == other
    assert not any(buffer.is_meta for buffer in sent.buffers())


def test_a_toy_preference_is_learned(backbone, folder, family):
    settings = settings_of(folder, family)
    if not hasattr(backbone.network, "add_adapter"):
        settings = ImageSettings(resolution=side(family), rank=None)
    network = make_trainable(backbone, settings, torch.float32, CPU)
    reference, task = make_reference(network, settings), task_of(backbone, settings)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    margins = []
    for visit in range(16):
        draw = task.draw(batch_of(task, family, visit=visit % 4))
        frozen_N = reference.score(task.score, network, draw)
        chosen_B, rejected_B = implicit_reward(task.score(network, draw).score_N, frozen_N).chunk(2)
        optimizer.zero_grad()
        preference_loss("sigmoid", chosen_B, rejected_B, beta=200.0).mean().backward()
        optimizer.step()
        margins.append((chosen_B - rejected_B).item())
    assert sum(margins[-8:]) > 0
    assert min(margins[-4:]) > margins[0]
