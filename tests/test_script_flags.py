"""The flags of the scripts that are no commands of the package."""

from dataclasses import fields

import pytest

from scripts.benchmark.card_command import CardSettings
from scripts.benchmark.command import BenchmarkSettings
from scripts.benchmark.heads import HeadSettings
from scripts.benchmark.host import HostSettings
from scripts.benchmark.losses.command import LossesSettings
from scripts.benchmark.quality.command import RaceSettings
from scripts.gradient_noise import GradientNoiseSettings
from scripts.growth import GrowthSettings
from tests.toy import mistakes

SCRIPTS = [BenchmarkSettings, CardSettings, RaceSettings, LossesSettings, HeadSettings]
SCRIPTS += [HostSettings, GradientNoiseSettings, GrowthSettings]


@pytest.mark.parametrize("cls", SCRIPTS)
def test_a_number_out_of_its_bounds_is_refused(cls):
    """Whatever else a class asks of its settings."""
    bounds = {field.name: field.metadata.get("bounds") or {} for field in fields(cls)}
    low = {name: given["least"] - 1 for name, given in bounds.items() if "least" in given}
    low |= {name: given["above"] for name, given in bounds.items() if "above" in given}
    assert low
    for name, number in low.items():
        lines = mistakes(f"--{name}", str(number), cls=cls)
        assert any(line.startswith(f"--{name} must be") for line in lines), name
