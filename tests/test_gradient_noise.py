"""The parts of a gradient's variance: a linear network, whose parts are known in closed form."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffdpo.errors import UserError
from diffdpo.objective.scores import Scores
from scripts.gradient_noise import (
    GradientNoiseSettings,
    Policy,
    Sketch,
    folder_of,
    page,
    pulls_of_pair,
    strata_of,
)
from scripts.gradient_parts import (
    REMEDIES,
    Pulls,
    by_pull,
    by_stratum,
    gains,
    importance,
    opposite,
    parts,
    shares,
    with_errors,
)

# The gradient of pair p in stratum t is alpha_t (z_p + e), z ~ N(m, s² I), e ~ N(0, n² I).
ALPHA_T = np.array([1.0, 2.0, 4.0])
SIZE, MEAN, PAIR, NOISE = 4, 1.5, 0.8, 0.6
PAIRS, NOISES = 4000, 2


def known():
    """The parts of the variance, and the signal, by hand."""
    square, spread = SIZE * MEAN**2, ALPHA_T.var()
    return {
        "timestep": spread * square,
        "pair": ALPHA_T.mean() ** 2 * SIZE * PAIR**2,
        "both": spread * SIZE * PAIR**2,
        "noise": (ALPHA_T**2).mean() * SIZE * NOISE**2,
        "signal": ALPHA_T.mean() ** 2 * square,
    }


@pytest.fixture(scope="module")
def pulls():
    random = np.random.default_rng(0)
    z_P11K = MEAN + PAIR * random.standard_normal((PAIRS, 1, 1, SIZE))
    e_PTMK = NOISE * random.standard_normal((PAIRS, len(ALPHA_T), NOISES, SIZE))
    alpha = ALPHA_T[:, None, None]
    logit = np.zeros((PAIRS, len(ALPHA_T), NOISES))
    # Twice, because σ(0) is one half.
    pull, other = 2 * alpha * (z_P11K + e_PTMK), 2 * alpha * (z_P11K - e_PTMK)
    return Pulls(pull, logit, other[:, :, 0], logit[:, :, 0])


def test_parts_of_a_linear_network(pulls):
    found = parts(pulls.gradient_PTMK)
    for name, value in known().items():
        assert getattr(found, name) == pytest.approx(value, rel=0.06), name
    assert found.total == pytest.approx(
        np.square(pulls.gradient_PTMK).sum(axis=-1).mean() - found.signal, rel=1e-3
    )


def test_few_pairs_are_no_bias(pulls):
    """The mean over many small measurements is the truth, where plain variances are far off."""
    few = [parts(group) for group in np.split(pulls.gradient_PTMK, PAIRS // 4)]
    for name, value in known().items():
        assert np.mean([getattr(one, name) for one in few]) == pytest.approx(value, rel=0.06), name


def drawn_by_pull():
    """The variance that is left where the density of pairs is known but for the noise of one draw
    a stratum, by drawing many."""
    random = np.random.default_rng(2)
    z_P1K = MEAN + PAIR * random.standard_normal((200_000, 1, SIZE))
    half = [
        np.square(
            ALPHA_T[:, None] * (z_P1K + NOISE * random.standard_normal((len(z_P1K), 3, SIZE)))
        ).sum(axis=-1).mean(axis=1)
        for _ in range(2)
    ]  # fmt: skip
    return np.sqrt(half[0]).mean() * (half[1] / np.sqrt(half[0])).mean() - known()["signal"]


def test_pairs_whose_margin_is_saturated_are_drawn_seldom():
    """Of two kinds of pairs, one whose gradient is a ninth of the other's: without noise the best
    density leaves (E|g|)², against E|g|²."""
    gradient = np.ones((40, 2, 2, 1))
    gradient[::2] /= 9
    found = parts(gradient)
    assert by_pull(gradient, found) == pytest.approx((5 / 9) ** 2 - found.signal)
    assert found.total == pytest.approx(41 / 81 - found.signal)


def test_what_remedies_gain(pulls):
    part, found = known(), gains(pulls)
    total = sum(part.values()) - part["signal"]
    second = ALPHA_T**2 * (SIZE * (MEAN**2 + PAIR**2 + NOISE**2))
    weighed = np.sqrt(second).mean() ** 2 - part["signal"]
    assert importance(pulls.gradient_PTMK, parts(pulls.gradient_PTMK)) == pytest.approx(
        weighed, rel=0.06
    )
    # Opposite noises cancel wholly in a linear network.
    assert opposite(pulls) == pytest.approx(-part["noise"], rel=0.06)
    rest = part["timestep"] + part["both"] + part["noise"]
    wanted = {
        "stratified": total / (total - part["timestep"]),
        "over visits": rest / part["noise"],
        "importance": total / weighed,
        "pairs by pull": total / drawn_by_pull(),
        # With slopes of one half two draws inside are the mean of two gradients.
        "two draws inside": total / (part["pair"] + rest / 2) / 2,
        "antithetic": total / 2 / (total - part["noise"]),
        "noisiest": (MEAN**2 / (PAIR**2 + NOISE**2)) * total / part["signal"],
    }
    assert found == pytest.approx(wanted, rel=0.08)
    assert set(found) == set(REMEDIES)


def test_strata_in_closed_form(pulls):
    found = by_stratum(pulls.gradient_PTMK)
    assert found["second_moment"] == pytest.approx(ALPHA_T**2 / (ALPHA_T**2).mean(), rel=0.05)
    assert found["projection"] == pytest.approx(ALPHA_T * ALPHA_T.mean() * SIZE * MEAN**2, rel=0.05)
    assert found["signal_to_noise"] == pytest.approx(MEAN**2 / (PAIR**2 + NOISE**2), rel=0.06)


def test_two_draws_inside_weigh_by_the_mean_margin():
    """Two strata, one noise each way: the gradient by hand over every choice of two draws."""
    random = np.random.default_rng(1)
    pull, logit = random.standard_normal((3, 2, 2, 5)), 3 * random.standard_normal((3, 2, 2))
    pulls = Pulls(pull, logit, pull[:, :, 0], logit[:, :, 0])
    mean_PK, second = np.zeros((3, 5)), 0.0
    for p in range(3):
        for t, u in np.ndindex(2, 2):
            choices = [(i, j) for i, j in np.ndindex(2, 2) if t != u or i != j]
            for i, j in choices:
                slope = 1 / (1 + np.exp((logit[p, t, i] + logit[p, u, j]) / 2))
                gradient = slope * (pull[p, t, i] + pull[p, u, j]) / 2
                mean_PK[p] += gradient / 4 / len(choices)
                second += gradient @ gradient / 4 / len(choices) / 3
    signal = sum(mean_PK[p] @ mean_PK[q] for p in range(3) for q in range(3) if p != q) / 6
    found = parts(pulls.gradient_PTMK)
    wanted = signal / (second - signal) / 2 / (found.signal / found.total)
    assert gains(pulls)["two draws inside"] == pytest.approx(wanted)


def test_standard_errors_are_those_of_a_mean():
    """Of a figure that is a mean over pairs the jackknife is the standard error of the mean."""
    logit = np.random.default_rng(0).standard_normal((9, 2, 2))
    pulls = Pulls(np.ones((9, 2, 2, 1)), logit, np.ones((9, 2, 1)), logit[:, :, 0])
    figures = with_errors(lambda some: {"mean": float(some.logit_PTM.mean())}, pulls)
    each = logit.mean(axis=(1, 2))
    assert figures["mean"] == pytest.approx((each.mean(), each.std(ddof=1) / 3))


def test_a_sketch_is_linear_and_keeps_products_on_average():
    random = np.random.default_rng(0)
    a, b = (torch.from_numpy(random.standard_normal(50)).float() for _ in range(2))
    found = []
    for seed in range(2000):
        sketch = Sketch(50, 16, seed)
        found.append(float(sketch([a[:20], a[20:].view(6, 5)]) @ sketch([b])))
    assert np.mean(found) == pytest.approx(float(a @ b), abs=4 * np.std(found) / 2000**0.5)
    torch.testing.assert_close(sketch([a]) + 2 * sketch([b]), sketch([a + 2 * b]))


@dataclass(frozen=True)
class Batch:
    z: torch.Tensor
    noise_D: torch.Tensor
    t: float


@dataclass(frozen=True)
class Collation:
    timestep: Any = None

    def __call__(self, items):
        (visit,) = items
        noise = torch.full((3,), float(visit + 1))
        return Batch(torch.tensor([1.0, 2.0, 3.0]), noise, self.timestep(None))


class LinearTask:
    """Scores t·w·(z + noise) for winners, 0 for losers: the gradient is linear in the noise."""

    collate = Collation()

    def draw(self, batch):
        return batch

    def score(self, network, draw):
        return Scores(torch.stack([draw.t * network(draw.z + draw.noise_D)[0], torch.zeros(())]))


class Zero:
    def score(self, score, network, draw):
        return 0.0


def test_gradients_of_a_pair():
    task = LinearTask()
    network = nn.Linear(3, 1, bias=False)
    policy = Policy(task, network, Zero(), beta=10.0)
    strata = [lambda _, t=t: t for t in (0.5, 2.0)]
    whole = lambda gradients: torch.cat([g.flatten() for g in gradients])  # noqa: E731
    found = pulls_of_pair(policy, lambda visit: visit, strata, 2, whole)
    z = np.array([1.0, 2.0, 3.0])
    weight = network.weight.detach().numpy()[0]
    for number, t in enumerate((0.5, 2.0)):
        for m in range(2):
            wanted = 10 * t * (z + 2 * number + m + 1)
            np.testing.assert_allclose(found["pull_PTMK"][number, m], wanted, rtol=1e-6)
            assert found["logit_PTM"][number, m] == pytest.approx(float(wanted @ weight), rel=1e-5)
        np.testing.assert_allclose(
            found["opposite_PTK"][number], 10 * t * (z - 2 * number - 1), rtol=1e-6
        )


def test_strata_are_equal_parts_of_the_density():
    process = SimpleNamespace(timestep=lambda random: float(random.random() ** 2))
    strata = strata_of(process, 4, seed=0)
    assert [len(one.values) for one in strata] == [5000] * 4
    edges = [max(one.values) for one in strata]
    assert edges == pytest.approx([0.25**2, 0.5**2, 0.75**2, 1], abs=0.02)
    random = np.random.default_rng(0)
    assert all(strata[1].values[0] <= strata[1](random) <= strata[1].values[-1] for _ in range(9))


def test_a_folder_of_other_settings_is_refused(tmp_path):
    settings = GradientNoiseSettings(output_dir=str(tmp_path / "noise"))
    folder_of(settings)
    folder_of(replace(settings, pairs=60))  # goes on
    with pytest.raises(UserError, match="another beta_dpo"):
        folder_of(replace(settings, beta_dpo=2000.0))


def test_the_page_has_every_figure(pulls):
    few = Pulls(pulls.pull_PTMK[:6], pulls.logit_PTM[:6], pulls.opposite_PTK[:6],
                pulls.opposite_PT[:6])  # fmt: skip
    found = {
        "shares": with_errors(shares, few),
        "gains": with_errors(gains, few),
        "strata": {name: list(row) for name, row in by_stratum(few.gradient_PTMK).items()},
    }
    text = page(found)
    assert all(name in text for name in REMEDIES)
    assert f"{found['shares']['pair'][0]:.1%}" in text


def test_a_policy_that_is_not_there_is_one_line():
    (line,) = GradientNoiseSettings(policy="/no/such").problems()
    assert line == "--policy /no/such: no such folder"


def test_the_page_shows_the_kept_figures():
    root = Path(__file__).parents[1]
    found = json.loads((root / "assets" / "gradient-noise.json").read_text())
    text = (root / "docs" / "speed.md").read_text()
    (block,) = re.findall(r"<!-- noise -->\n(.*?)<!-- end of noise -->", text, re.DOTALL)
    assert block.strip() == page(found)
