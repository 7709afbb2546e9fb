"""What a run will need: memory of weights, optimizer and activations, and disk of its tables.

Weights are counted. Activations are arithmetic, and told with an "about".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from diffdpo.cache.disk import gib
from diffdpo.engine.accelerator import DTYPES
from diffdpo.engine.finite import plain_tensors
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.offload import host_weights
from diffdpo.image.settings import ImageSettings

# Activations of one block in its backward pass, in hidden states of its own size: attention with
# its queries, keys and values, and a feed-forward layer four times as wide.
IN_A_BLOCK = 12
ITEMS = 2  # of a pair


def size(modules: Iterable[nn.Module]) -> int:
    """The bytes of the weights and buffers of modules."""
    return size_of_all(x for module in modules for x in (*module.parameters(), *module.buffers()))


def size_of_all(tensors: Iterable[Tensor]) -> int:
    """The bytes of tensors, each of which counts once."""
    plain = {id(one): one for tensor in tensors for _, one in plain_tensors("", tensor)}
    return sum(map(size_of, plain.values()))


def size_of(tensor: Tensor) -> int:
    """The bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def state_size(trained: int, settings: ImageSettings) -> int:
    """The bytes of gradients, float32, and of the optimizer's state of so many weights."""
    if settings.use_adafactor:
        return 4 * trained  # its own state is a row and a column of each matrix
    return (4 + (2 if settings.use_8bit_adam else 8)) * trained


def activations(backbone: Backbone, network: Any, settings: ImageSettings) -> int | None:
    """About how many bytes of activations a pair takes; None where its network is no row of
    blocks of one width, as a UNet's are not.

    Checkpointed, as offloaded blocks are: the input of each, and what one computes on its way back.
    """
    width, blocks = width_of(network.config), blocks_in(network)
    if width is None or not blocks:
        return None
    tokens = backbone.tokens(settings.resolution or 0) + backbone.longest_prompt
    itemsize = DTYPES[settings.mixed_precision or "no"].itemsize
    again = settings.gradient_checkpointing or settings.offload
    states = blocks + IN_A_BLOCK if again else blocks * IN_A_BLOCK
    return states * tokens * width * itemsize * ITEMS * settings.timesteps_per_pair


def width_of(config: Any) -> int | None:
    """The channels of a transformer's hidden states."""
    heads, each = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(each, int):
        return heads * each
    return config.get("dim")


def blocks_in(network: nn.Module) -> int:
    """The number of blocks in the lists of a transformer; 0 for a UNet, whose parts go down, and
    up again."""
    lists = {
        name: part for name, part in network.named_children() if isinstance(part, nn.ModuleList)
    }
    if "up_blocks" in lists:
        return 0
    return sum(len(part) for name, part in lists.items() if "block" in name or name == "layers")


def memory_line(
    settings: ImageSettings, backbone: Backbone, networks: Iterable[Any], trained: int
) -> str:
    """What will be in memory; the first of the ``networks`` is trained."""
    networks = list(networks)
    state = state_size(trained, settings)
    parts = [weights_line(networks), f"gradients and optimizer {gib(state)}"]
    if backbone.encoders():
        parts.append(f"encoders {gib(size(backbone.encoders()))}")
    pair = activations(backbone, networks[0], settings)
    if pair is not None:
        parts.append(f"activations of a pair about {gib(pair)}")
    return f"{', '.join(parts)} GiB"


def weights_line(networks: Sequence[nn.Module]) -> str:
    """The weights of networks; of those that are offloaded, where they lie."""
    blocks = [size_of_all(weights) for each in networks for weights in host_weights(each)]
    if not blocks:
        return f"weights {gib(size(networks))}"
    rest = size(networks) - sum(blocks)
    return (
        f"weights {gib(sum(blocks))} on the host and {gib(rest)} on the device, where"
        f" {gib(max(blocks))} of the largest block come and go"
    )


def latents_size(backbone: Backbone, settings: ImageSettings, pairs: int, itemsize: int) -> int:
    """The bytes of stored latents: means and deviations of two images, in every flip."""
    flips = 1 if settings.no_hflip else 2
    cells = math.prod(backbone.latent_shape(settings.resolution or 0))
    return pairs * ITEMS * flips * 2 * cells * itemsize
