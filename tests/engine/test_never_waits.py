"""Between begin and end of a step the host waits for nothing: shown without a GPU, on a device that
has no numbers to give."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset

from diffdpo.commands.train_diffusion_dpo import draw_settings
from diffdpo.engine.trainer import Trainer
from diffdpo.image.backbones import backbone_of
from diffdpo.image.backbones.conditions import joined
from diffdpo.image.backbones.conditions import rows_of as condition_rows
from diffdpo.image.flags.loss_settings import image_objective
from diffdpo.image.model.network import make_reference, make_trainable
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.side_columns import SideSettings
from diffdpo.image.process.processes import process_for
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import ImageTask
from diffdpo.reference import FrozenCopy
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask
from tests.engine.waits import META, Calls, Operations, Waits
from tests.factory import whole_pipeline
from tests.families import factory
from tests.image.side_rows import LEFT, SCORES, SEEDS, rows_of
from tests.text.factory import model, pair_rows


@pytest.fixture
def accelerator():
    one = Accelerator(cpu=True)
    for state in (PartialState(), one.state):
        state.device = META
    return one


class Told(torch.optim.Optimizer):
    """w ← w − rate · gradient, unless a number is not finite."""

    _step_supports_amp_scaling = True

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight -= group["lr"] * weight.grad * (1 - self.found_inf)


def trainer(accelerator, settings, network, task, reference, objective, rows, monkeypatch):
    """One with an optimizer that, as AdamW on a GPU, is told and asks nothing before a step."""
    monkeypatch.setattr(
        "diffdpo.engine.trainer.make_optimizer", lambda parameters, *_: Told(parameters)
    )
    return Trainer(accelerator, settings, network, task, reference, objective, rows, print)


def step(trained):
    """A step after another, which moves a scheduler's tables; the copies that it made."""
    batches = trained.batches(0)
    trained.step(next(batches), 1e-3, 2)
    micro_batches = next(batches)
    with Calls(), Operations() as operations:
        metrics = trained.step(micro_batches, 1e-3, 3)
    assert metrics["loss"].device == META
    return operations.copies


def image_trainer(accelerator, monkeypatch, pipeline, tmp_path, beside, **changes):
    settings = ImageSettings(
        output_dir=str(tmp_path), resolution=32, train_batch_size=2, max_train_steps=4,
        gradient_accumulation_steps=2, mixed_precision="no",
        **{"rank": 2, "loss_type": ["sigmoid"]} | changes,
    )  # fmt: skip
    backbone = backbone_of(pipeline)
    rows = rows_of(6, **SEEDS, **LEFT, **SCORES)
    pairs = image_pairs(Dataset.from_list(rows), FrameSettings(0, 32, flip=True, beside=beside))
    stored = {
        row: condition_rows(backbone.encode_prompts([row]))[0] for row in {*pairs.prompts(), ""}
    }

    def embed(prompts):
        return joined([stored[prompt] for prompt in prompts])

    process = process_for(backbone, settings)
    backbone.move_encoders(META, torch.float32)
    network = make_trainable(backbone, settings, torch.float32, META)
    task = ImageTask(
        backbone, process, draw_settings(settings), META, nullcontext, embed=embed
    )  # fmt: skip
    reference, objective = make_reference(network, settings), image_objective(settings)
    return trainer(
        accelerator, settings, network, task, reference, objective, pairs, monkeypatch
    )  # fmt: skip


FAMILIES = {
    "sd": lambda: whole_pipeline("StableDiffusionPipeline"),
    "sdxl": lambda: whole_pipeline("StableDiffusionXLPipeline", "v_prediction"),
    "sd3": lambda: factory("StableDiffusion3Pipeline").tiny(),
    "flux": lambda: factory("FluxPipeline").tiny(),
    "wan": lambda: factory("WanPipeline").tiny(),
}
OPTIONS = [
    (
        "sd",
        {
            **{"loss_type": ["capo"], "ema_decay": 0.9, "timesteps_per_pair": 2},
            **{"input_perturbation": 0.1, "noise_offset": 0.1, "proportion_empty_prompts": 0.5},
        },
        {"scores": "score", "mask": "mask"},
    ),
    *(
        pytest.param(*options, marks=pytest.mark.slow)
        for options in (
            ("sdxl", {"rank": None}, {"noise": True}),
            ("sd3", {"timestep_weight": "elbo"}, {}),
            ("flux", {}, {}),
            ("wan", {}, {}),
            ("sd", {"loss_type": ["kto"]}, {}),
        )
    ),
]


@pytest.mark.parametrize(("family", "changes", "beside"), OPTIONS)
def test_a_step_on_pictures_waits_for_nothing(
    accelerator, monkeypatch, tmp_path, family, changes, beside
):
    trained = image_trainer(
        accelerator, monkeypatch, FAMILIES[family](), tmp_path, SideSettings(**beside), **changes
    )
    copies = step(trained)
    # Pixels, noise of the posterior, noise, timesteps, and the embeddings, of each micro-batch.
    assert len(copies) >= 2 * 5
    assert (4, 3, 32, 32) in copies


def text_trainer(accelerator, monkeypatch, tmp_path, **changes):
    settings = TextSettings(
        output_dir=str(tmp_path), train_batch_size=3, gradient_accumulation_steps=2,
        max_train_steps=4, mixed_precision="no", **{"loss_type": ["sigmoid"]} | changes,
    )  # fmt: skip
    scorer = TokenScorer(model(0, layers=2), settings.sharing)
    prove_head(scorer, "x")
    objective, reference = text_objective(settings), FrozenCopy(scorer)
    scorer, reference.copy = scorer.to(META), reference.copy.to(META)
    task = TextTask(META, nullcontext, rule=scorer.rule)
    from tests.text.test_task import items_of  # here: it has models of its own

    rows = Listed(items_of(pair_rows(12)))
    return trainer(
        accelerator, settings, scorer, task, reference, objective, rows, monkeypatch
    )  # fmt: skip


class Listed:
    fingerprint = "listed"

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def order(self, seed, epoch):
        return list(range(len(self.items)))

    def read(self, row, visit):
        return self.items[row]

    def source(self, row):
        return row


TEXT = [(["sigmoid_norm", "sft"], "true")]
TEXT += [
    pytest.param(*options, marks=pytest.mark.slow)
    for options in ((["sigmoid"], "false"), (["sppo_hard"], "true"))
]


@pytest.mark.parametrize(("loss", "share"), TEXT)
def test_a_step_on_text_waits_for_nothing(accelerator, monkeypatch, tmp_path, share, loss):
    # Each pass of a body, transformers asks one truth value of its own: whether rows are packed,
    # or whether all of a mask is true.
    for name, answer in (("find_packed_sequence_indices", None), ("fast_all", False)):
        monkeypatch.setattr(
            f"transformers.masking_utils.{name}", lambda *args, answer=answer: answer
        )
    changes = {"share_prefix": share, "loss_type": loss}
    if len(loss) > 1:
        changes["loss_weights"] = [1.0, 0.5]
    trained = text_trainer(accelerator, monkeypatch, tmp_path, **changes)
    copies = step(trained)
    # Tokens, numbers of scored ones and the layout, once for policy and reference.
    counts = 1 if len(loss) > 1 else 0
    assert len(copies) == 2 * 3 + counts


def test_a_mask_over_packed_rows_waits_for_nothing(monkeypatch):
    from torch.nn.attention import flex_attention

    from diffdpo.text.scoring import flexible

    monkeypatch.setattr(flexible, "KERNELS", {META.type})
    monkeypatch.setattr(flexible, "compiled", lambda name: getattr(flex_attention, name))
    read_31T = torch.zeros(3, 1, 500, dtype=torch.long).to(META, non_blocking=True)
    with Calls(), Operations():
        mask = flexible.mask_of(flexible.filled_up(read_31T)[2])
    assert mask.kv_indices.device.type == META.type
    assert mask.shape == (1, 1, 512, 512)


WAYS = {
    "copy": lambda x: x.to(META),
    "tensor": lambda x: torch.tensor([1.0], device=META),
    "new": lambda x: x.to(META, non_blocking=True).new_tensor([1.0]),
    "list": lambda x: x.to(META, non_blocking=True)[[0, 1]],
    "mask": lambda x: x.to(META, non_blocking=True)[x.to(META, non_blocking=True) > 0],
    "item": lambda x: x.to(META, non_blocking=True)[0].item(),
    "bool": lambda x: bool(x.to(META, non_blocking=True)[0]),
    "nonzero": lambda x: x.to(META, non_blocking=True).nonzero(),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_is_found(way):
    with pytest.raises(Waits), Calls(), Operations():
        WAYS[way](torch.ones(3))
