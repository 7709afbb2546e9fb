"""Moving averages: their values, that they stand in for the weights, and that they are kept."""

import pytest
import torch

from diffdpo.engine import checkpoint
from diffdpo.engine.averages import MovingAverage, MovingReference
from diffdpo.engine.checkpoint_state import AVERAGES
from diffdpo.errors import UserError
from diffdpo.objective.scores import Scores

TAKEN, LEFT_OUT = torch.tensor(True), torch.tensor(False)


def made(decay=0.9):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, MovingAverage(checkpoint.trainable(model), decay)


def move(model, by):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by)


def test_the_mean_is_the_geometric_sum():
    """After n steps: decayⁿ · w₀ + (1 − decay) Σ decay^(n−k) · w_k."""
    model, average = made(0.9)
    start, expected = model.weight.detach().clone(), 0.9**3 * model.weight.detach()
    for k in (1, 2, 3):
        move(model, k)
        average.update(TAKEN, 1)
        expected = expected + 0.1 * 0.9 ** (3 - k) * model.weight.detach()
    torch.testing.assert_close(average.means["weight"], expected)
    assert not torch.allclose(average.means["weight"], start)


def test_between_its_turns_the_mean_stays():
    """θ_ref ← α θ + (1 − α) θ_ref after every third step, as TRL's callback has it."""
    model, average = made(0.4)
    average.every = 3
    expected = model.weight.detach().clone()
    for step in range(1, 8):
        move(model, step)
        average.update(TAKEN, step)
        if step in (3, 6):
            expected = 0.6 * model.weight.detach() + 0.4 * expected
        torch.testing.assert_close(average.means["weight"], expected)


def test_weights_that_do_not_move_leave_the_mean_as_it_is_to_the_last_bit():
    model, average = made(0.995)
    for _ in range(5):
        average.update(TAKEN, 1)
    assert torch.equal(average.means["weight"], model.weight)


def test_a_step_that_was_not_taken_does_not_count():
    model, average = made()
    before = average.means["weight"].clone()
    move(model, 1.0)
    average.update(LEFT_OUT, 1)
    assert torch.equal(average.means["weight"], before)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        made(decay)


def test_in_place_the_network_computes_with_the_means_and_afterwards_with_its_own():
    model, average = made()
    start = model.weight.detach().clone()
    move(model, 1.0)
    own, memory = model.weight.detach().clone(), model.weight.data_ptr()
    with average.in_place():
        assert torch.equal(model.weight, start)
    assert torch.equal(model.weight, own)
    assert model.weight.data_ptr() == memory
    assert torch.equal(average.means["weight"], start)


def test_the_reference_follows_the_policy_and_has_no_gradient():
    model, average = made(0.5)
    reference = MovingReference(average)

    def score(network, draw):
        return Scores(network(draw).sum(dim=1))

    draw = torch.ones(4, 3)
    assert torch.equal(reference.score(score, model, draw), score(model, draw).score_N)
    move(model, 1.0)
    behind = reference.score(score, model, draw)
    average.update(TAKEN, 1)
    nearer, policy = reference.score(score, model, draw), score(model, draw).score_N
    assert not nearer.requires_grad
    torch.testing.assert_close(nearer, (behind + policy) / 2)


def kept(folder, model, average, step):
    optimizer = torch.optim.AdamW(model.parameters())
    state = {"step": step, "settings": {}, "effective_batch": 2, "data": "d", "scaler": None}
    uses = {"reference": average} if average else {}
    return checkpoint.write(folder, checkpoint.snapshot(model, optimizer, state, uses)), optimizer


def test_a_checkpoint_gives_the_same_means_back(tmp_path):
    model, average = made()
    move(model, 0.3)
    average.update(TAKEN, 1)
    path, optimizer = kept(tmp_path, model, average, 1)
    means = {name: mean.clone() for name, mean in average.means.items()}
    move(model, 1.0)
    average.update(TAKEN, 1)
    state = checkpoint.read_state(path)
    checkpoint.load(path, model, optimizer, state, {"reference": average})
    assert all(torch.equal(average.means[name], mean) for name, mean in means.items())


def test_damaged_or_missing_means_are_refused(tmp_path):
    model, average = made()
    path, optimizer = kept(tmp_path, model, average, 1)
    state, file = checkpoint.read_state(path), path / AVERAGES
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"averages\.safetensors: damaged"):
        checkpoint.check_files(path, state)
    file.unlink()
    with pytest.raises(UserError, match=r"averages\.safetensors: damaged or missing"):
        checkpoint.check_files(path, state)
    plain, _ = kept(tmp_path, model, None, 2)
    assert not (plain / AVERAGES).exists()
    with pytest.raises(UserError, match=r"averages\.safetensors: damaged or missing"):
        checkpoint.load(
            plain, model, optimizer, checkpoint.read_state(plain), {"reference": average}
        )
