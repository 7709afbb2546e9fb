"""The learning rate: every schedule is that of diffusers, and it is what moves the weights."""

import sys
from types import ModuleType

import pytest
import torch
import transformers
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file

from diffdpo.cli import run_command
from diffdpo.engine.optim import make_optimizer, make_schedule
from diffdpo.engine.optimizer_state import copies, flatten, restore
from diffdpo.engine.plan import planned_steps
from diffdpo.engine.settings import SCHEDULES, TrainSettings
from diffdpo.errors import UserError
from diffdpo.text.settings import TextSettings
from tests.factory import read_jsonl

STEPS = 100


TRAINERS = {
    "image": ("train_diffusion_dpo", "--rank 4 --pretrained_model_name_or_path"),
    "text": ("train_text_dpo", "--use_peft --model_name_or_path"),
}
# AdamW without memory, decay and epsilon moves every weight by exactly the rate: −rate · sign(g).
SIGN = "--adam_beta1 0 --adam_beta2 0 --adam_weight_decay 0 --adam_epsilon 1e-30"


def settings_of(**changes):
    return TrainSettings(**{"lr_warmup_steps": 7, "lr_num_cycles": 3, "lr_power": 2.0} | changes)


def diffusers_rates(settings, rate, steps):
    """The rates that a loop sees which steps diffusers' scheduler after its optimizer."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=steps,
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
    rates = []
    for _ in range(steps + 3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("rate", [1e-5, 3e-7, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_that_of_diffusers_at_the_real_rate(name, rate):
    settings = settings_of(lr_scheduler=name)
    schedule = make_schedule(settings, STEPS, rate)
    rates = [rate * schedule(step) for step in range(STEPS + 3)]
    assert rates == pytest.approx(diffusers_rates(settings, rate, STEPS), rel=1e-12, abs=1e-20)


def test_the_polynomial_schedule_ends_at_a_rate():
    settings = TrainSettings(lr_scheduler="polynomial")
    schedule = make_schedule(settings, 100, 1e-5)
    rates = [1e-5 * schedule(step) for step in (0, 50, 99, 100, 1000)]
    assert rates == pytest.approx([1e-5, 5.05e-6, 1.99e-7, 1e-7, 1e-7])


OPTIONS = {
    "inverse_sqrt": [{}, {"timescale": 20}],
    "cosine_with_min_lr": [{"min_lr": 1e-6}, {"min_lr_rate": 0.1, "num_cycles": 1.5}],
    "cosine_warmup_with_min_lr": [{"min_lr": 1e-6, "warmup_lr_rate": 0.2}],
    "warmup_stable_decay": [
        {"num_decay_steps": 30},
        {"num_decay_steps": 30, "min_lr_ratio": 0.1, "decay_type": "1-sqrt"},
    ],
    "cosine": [{"num_cycles": 1.5}],
    "cosine_with_restarts": [{"num_cycles": 4}],
    "polynomial": [{"lr_end": 1e-6}, {"lr_end": 1e-6, "power": 3.0}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, each) for name in OPTIONS for each in OPTIONS[name]]
)
def test_schedules_and_options_of_transformers_are_its_own(name, options):
    settings = TextSettings(
        lr_scheduler=name, lr_scheduler_kwargs=options, lr_warmup_steps=7, lr_power=2.0
    )
    schedule = make_schedule(settings, STEPS, 1e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    power = {"power": 2.0} if name == "polynomial" else {}
    scheduler = transformers.get_scheduler(
        name, optimizer, 7, STEPS, scheduler_specific_kwargs=power | options
    )
    rates = []
    for _ in range(STEPS + 3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [1e-4 * schedule(step) for step in range(STEPS + 3)] == pytest.approx(rates, rel=1e-12)
    assert len(set(rates)) > 10


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("linear", {"min_lr": 1e-6}, "linear: takes no min_lr; known: none"),
        ("constant", {"power": 2}, "constant: takes no power; known: none"),
        (
            "cosine_with_min_lr",
            {"last_epoch": 5},
            "takes no last_epoch; known: min_lr, min_lr_rate",
        ),
        ("cosine_with_min_lr", {}, "One of min_lr or min_lr_rate should be set"),
        ("cosine_with_min_lr", {"min_lr": "low"}, "--lr_scheduler_kwargs: cosine_with_min_lr: "),
        ("warmup_stable_decay", {}, "missing 1 required positional argument: 'num_decay_steps'"),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 9, "min_lr_ratio": float("inf")},
            "gives rates that are no finite numbers",
        ),
        ("inverse_sqrt", {"timescale": 0}, "--lr_scheduler_kwargs: inverse_sqrt: "),
    ],
)
def test_options_that_a_schedule_does_not_take_are_one_line(name, options, line):
    settings = TextSettings(lr_scheduler=name, lr_scheduler_kwargs=options)
    with pytest.raises(UserError, match=line):
        make_schedule(settings, STEPS, 1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_a_function_of_the_step_alone(name):
    schedule = make_schedule(settings_of(lr_scheduler=name), STEPS, 1e-4)
    forward = [schedule(step) for step in range(STEPS)]
    backward = [schedule(step) for step in reversed(range(STEPS))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_dry_run_has_a_schedule(name):
    schedule = make_schedule(settings_of(lr_scheduler=name), STEPS, 0.0)
    assert {0.0 * schedule(step) for step in range(STEPS)} == {0.0}


def test_a_peak_below_the_end_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"--lr_scheduler polynomial: lr_end .* must be smaller"):
        make_schedule(TrainSettings(lr_scheduler="polynomial"), 100, 5e-8)


def test_the_steps_of_a_run_are_those_asked_for_or_of_its_epochs():
    assert planned_steps(7, 3.0, 100, 4) == 7
    assert planned_steps(None, 1.5, 100, 4) == 38  # 37.5
    assert planned_steps(None, 2.0, 10, 4) == 5
    assert planned_steps(None, 0.1, 10, 4) == 1


def test_the_first_step_of_adamw_is_as_long_as_the_rate():
    """m/(1−β1) = g and v/(1−β2) = g², so the first step is −rate · sign(g) and the decay."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    optimizer = make_optimizer([weight], TrainSettings(learning_rate=1.0), pytest.fail)
    for group in optimizer.param_groups:
        group["lr"] = 0.125
    weight.grad = torch.tensor([0.7, -0.01], dtype=torch.float64)
    optimizer.step()
    decayed = torch.tensor([2.0, -3.0], dtype=torch.float64) * (1 - 0.125 * 1e-2)
    expected = decayed - torch.tensor([0.125, -0.125], dtype=torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-6)


def test_rmsprop_divides_by_the_root_of_its_running_mean_and_keeps_it():
    """v = (1 − 0.99) g², so the first step is −rate · sign(g) / √0.01; the decay is in g."""
    settings = TextSettings(optim="rmsprop", learning_rate=0.125)
    start, gradient = torch.tensor([2.0, -3.0]), torch.tensor([0.7, -0.4])
    weight, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = make_optimizer([weight], settings, pytest.fail)
    weight.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), start - 1.25 * gradient.sign())
    resumed = make_optimizer([other], settings, pytest.fail)
    other.data.copy_(weight.data)
    tensors, rest = flatten(optimizer.state_dict(), ["w"])
    restore(resumed, copies(tensors), rest["values"], ["w"])
    for each, its in ((weight, optimizer), (other, resumed)):
        each.grad = gradient.clone()
        its.step()
    assert torch.equal(weight, other)
    broken = {**tensors, "w.square_avg": torch.zeros(3)}
    with pytest.raises(UserError, match="square_avg has the shape"):
        restore(resumed, broken, rest["values"], ["w"])


def test_two_optimizers_are_one_line():
    lines = TextSettings(optim="rmsprop", use_adafactor=True).problems()
    assert lines == ["--optim rmsprop: another optimizer is asked for as well; keep one"]


@pytest.fixture(params=TRAINERS)
def trainer(request, models, pairs, lm, data):
    """A command with its model and its data."""
    command, words = TRAINERS[request.param]
    model, rows = (models(), pairs) if request.param == "image" else (lm, data["pairs"])
    return command, [*words.split(), str(model), "--dataset_name", str(rows)]


@pytest.mark.parametrize("name", ["linear", "constant_with_warmup", "polynomial"])
def test_every_weight_moves_by_the_scheduled_rate(trainer, name, tmp_path):
    """From checkpoint to checkpoint. LoRA's second factor begins at zero and has a gradient from
    the first step on."""
    command, words = trainer
    words += ["--output_dir", str(tmp_path), "--max_train_steps", "6", "--checkpointing_steps", "1"]
    words += ["--learning_rate", "1e-3", "--lr_scheduler", name, "--lr_warmup_steps", "3"]
    words += [*SIGN.split(), "--train_batch_size", "2", "--report_to", "none"]
    assert run_command(command, words) == 0
    files = [tmp_path / f"checkpoint-{step}" / "trainable.safetensors" for step in range(1, 7)]
    states = [load_file(file) for file in files]
    names = [key for key in states[0] if "lora_B" in key]
    before = {key: torch.zeros_like(states[0][key]) for key in names}
    moved = []
    for state in states:
        change = torch.cat([(state[key] - before[key]).abs().flatten() for key in names])
        moved.append(change.median().item())
        assert change.max().item() == pytest.approx(moved[-1], rel=1e-3, abs=1e-9)
        before = state
    settings = TrainSettings(lr_scheduler=name, lr_warmup_steps=3)
    scheduled = diffusers_rates(settings, 1e-3, 6)[:6]
    assert moved == pytest.approx(scheduled, rel=1e-3, abs=1e-9)
    assert [line["lr"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == pytest.approx(
        scheduled
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without one")
@pytest.mark.parametrize("eight_bit", [False, True])
def test_paged_state_asks_for_a_gpu(eight_bit):
    settings = TrainSettings(use_paged_adam=True, use_8bit_adam=eight_bit)
    with pytest.raises(UserError, match="--use_paged_adam: needs a GPU"):
        make_optimizer([torch.nn.Parameter(torch.zeros(1))], settings, print)


@pytest.mark.parametrize(("eight_bit", "name"), [(False, "PagedAdamW"), (True, "PagedAdamW8bit")])
def test_pages_are_those_of_bitsandbytes(monkeypatch, eight_bit, name):
    """Of a stand-in for the package, which needs a GPU: which class is made, and of what."""
    made = []

    def optimizer(kind):
        return lambda parameters, **options: made.append((kind, options))

    package, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    for kind in ("PagedAdamW", "PagedAdamW8bit"):
        setattr(optim, kind, optimizer(kind))
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = TrainSettings(use_paged_adam=True, use_8bit_adam=eight_bit, adam_weight_decay=0.3)
    make_optimizer([torch.nn.Parameter(torch.zeros(1))], settings, print)
    ((kind, options),) = made
    assert kind == name
    assert (options["lr"], options["weight_decay"]) == (settings.learning_rate, 0.3)
    assert "fused" not in options
