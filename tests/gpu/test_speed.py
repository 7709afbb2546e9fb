"""What would make a card slower than it need be; times are medians after a warm-up."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from tests.commands.image_runs import flags, train
from tests.text import runs

pytestmark = pytest.mark.gpu


def seconds(call, repetitions=10):
    """The median time of a call on the card."""
    times = []
    for _ in range(3 + repetitions):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[3:])


def test_the_layout_of_a_unet_is_the_faster_one(card):
    """Stable Diffusion 1.5's UNet in bfloat16, forward and backward, in the layout that training
    uses and in channels_last."""
    from diffusers import UNet2DConditionModel

    with card:
        network = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).bfloat16()
        noisy = torch.randn(4, 4, 64, 64, dtype=torch.bfloat16)
        tokens = torch.randn(4, 77, 768, dtype=torch.bfloat16)
        at = torch.arange(4)
    times = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        times[layout] = seconds(lambda: network(noisy, at, tokens).sample.sum().backward())
    assert times[torch.contiguous_format] < 1.1 * times[torch.channels_last], times


def test_the_autoencoder_beside_a_float16_network_is_no_bottleneck(card):
    """It encodes in float32 there; a pair at 1024 px beside the same in bfloat16."""
    from diffusers import AutoencoderKL

    from diffdpo.image.backbones.base import vae_dtype

    with card:
        channels = (128, 256, 512, 512)
        network = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ).requires_grad_(False)
        pixels = torch.randn(2, 3, 1024, 1024)
    times = {}
    for precision in (torch.float16, torch.bfloat16):
        kind = vae_dtype(precision)
        network.to(dtype=kind)
        given = pixels.to(kind)
        times[precision] = seconds(lambda given=given: network.encode(given), 5)
    assert times[torch.float16] < 4 * times[torch.bfloat16], times


@pytest.mark.parametrize("modality", ["image", "text"])
def test_no_graph_is_compiled_for_every_step(
    device, models, pairs, lm, data, tmp_path, modality, monkeypatch
):
    """Texts of new lengths in each step must not reach the limit after which nothing is
    compiled."""
    from torch._dynamo.utils import counters

    if device.type == "cpu":  # the same graphs, without a compiler's minutes
        compile_it = torch.nn.Module.compile
        monkeypatch.setattr(
            torch.nn.Module,
            "compile",
            lambda net, **options: compile_it(net, backend="eager", **options),
        )
    torch._dynamo.reset()
    counters.clear()
    more = {"torch_compile": True, "max_train_steps": 20, "train_batch_size": 2}
    if modality == "image":
        train(*flags(models(), pairs, tmp_path / "run", **more))
    else:
        lora = {"use_peft": True, "lora_r": 4}
        runs.train(*runs.flags(lm, data["pairs"], tmp_path / "run", **lora, **more))
    assert 0 < counters["stats"]["unique_graphs"] <= 16, counters["stats"]
    assert not [reason for reason in counters["unimplemented"] if "limit" in str(reason)]


@pytest.mark.parametrize(("flag", "told"), [({}, True), ({"allow_tf32": True}, False)])
def test_float32_without_tf32_is_told_at_the_start(
    card, models, pairs, tmp_path, capsys, flag, told
):
    train(*flags(models(), pairs, tmp_path / "run", mixed_precision="no", **flag))
    assert ("--allow_tf32" in capsys.readouterr().out) is told
    assert torch.backends.cuda.matmul.allow_tf32 is not told
