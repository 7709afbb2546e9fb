"""What the tests of the families share: pictures, batches, tasks, and a spied run of a pipeline."""

import copy
import functools

import torch
from accelerate import Accelerator

from diffdpo.image.backbones import load_backbone
from diffdpo.image.pictures.pixels import PixelImage
from diffdpo.image.process.processes import process_for
from diffdpo.image.reading.pairs import PairItem
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import ImageTask
from diffdpo.losses import preference_loss
from diffdpo.preference import implicit_reward
from tests.families import factory, side

CPU = torch.device("cpu")
PROMPTS = ["a cat", "a much longer prompt", ""]


@functools.cache
def loaded(folder: str):
    """The backbone of a folder, loaded once; no test changes it."""
    return load_backbone(folder)


def fresh(folder):
    """One of the test's own: a copy, as loading takes ten times as long."""
    return copy.deepcopy(loaded(str(folder)))


def images(count, resolution, original=None):
    torch.manual_seed(2)
    pixels = torch.randint(256, (count, 3, resolution, resolution), dtype=torch.uint8).unbind()
    return [PixelImage((original or resolution,) * 2, (0, 0), one) for one in pixels]


def inputs(backbone, family, prompts=PROMPTS):
    """Latents, timesteps and condition of an item for each prompt."""
    torch.manual_seed(1)
    resolution, rows = side(family), len(prompts)
    sizes = backbone.size_condition(images(rows, resolution), resolution)
    noisy = torch.randn(rows, *backbone.latent_shape(resolution))
    t = torch.linspace(0.2, 0.9, rows)
    timestep_N = t if backbone.is_flow else (1000 * t).long()
    return noisy, timestep_N, {**backbone.encode_prompts(prompts), **sizes}


def settings_of(folder, family, **changes):
    return ImageSettings(
        pretrained_model_name_or_path=str(folder), resolution=side(family), rank=2, **changes
    )


def batch_of(task, family, pairs=1, visit=0):
    pictures = images(2 * pairs, side(family))
    items = [
        PairItem(n, visit, "a cat", pictures[n], pictures[pairs + n], 1.0) for n in range(pairs)
    ]
    return task.collate(items)


def task_of(backbone, settings):
    draws = DrawSettings(seed=0, resolution=settings.resolution)
    process, encode = process_for(backbone, settings), functools.cache(backbone.encode_prompts)
    return ImageTask(
        backbone, process, draws, CPU, Accelerator(cpu=True).autocast,
        encode_prompts=lambda prompts: encode(tuple(prompts)),
    )  # fmt: skip


class Spied:
    """A pipeline's run of four steps: inputs and outputs of its steps, and what it decodes."""

    def __init__(self, backbone, family, monkeypatch, prompts=("a cat",), guidance=None):
        self.steps, self.decoded = [], None
        pipeline, scheduler = backbone.pipeline, backbone.pipeline.scheduler
        step, decode = scheduler.step, pipeline.vae.decode

        def spied_step(output, timestep, sample, *rest, **options):
            self.steps.append((output.clone(), timestep, sample.clone()))
            result = step(output, timestep, sample, *rest, **options)
            self.latents = result[0] if isinstance(result, tuple) else result.prev_sample
            return result

        def spied_decode(latents, *rest, **options):
            self.decoded = latents.clone()
            return decode(latents, *rest, **options)

        monkeypatch.setattr(scheduler, "step", spied_step)
        monkeypatch.setattr(pipeline.vae, "decode", spied_decode)
        pipeline.set_progress_bar_config(disable=True)
        guidance = backbone.guidance_off if guidance is None else guidance
        with torch.no_grad():
            pipeline(
                prompt=list(prompts), height=side(family), width=side(family),
                num_inference_steps=4, generator=torch.Generator().manual_seed(0),
                output_type="pt", **backbone.sampling_options(guidance, len(prompts)),
            )  # fmt: skip


def latents_of(family, sampled, backbone):
    """Latents as ``predict`` takes them, of what a pipeline gives to its scheduler."""
    unpacked = getattr(factory(family), "unpacked", lambda sampled, shape: sampled)
    return unpacked(sampled, backbone.latent_shape(side(family)))


def step_of(task, reference, network, family, half=True):
    """The rewards of a step's items and the losses of its pairs, in bfloat16 where ``half``."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        draw = task.draw(batch_of(task, family))
        reference_N = reference.score(task.score, network, draw)
        reward_N = implicit_reward(task.score(network, draw).score_N, reference_N)
    return reward_N, preference_loss("sigmoid", *reward_N.chunk(2), beta=10.0)
