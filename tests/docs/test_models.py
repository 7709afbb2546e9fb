"""The tables of docs/models.md say of this package what its code does."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from diffdpo.image.backbones import BACKBONES, family_of
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.flags.process_settings import WEIGHTS
from diffdpo.image.model.lora_export import why_no_kohya
from diffdpo.image.settings import ImageSettings
from tests.commands.test_recipes import FAMILIES
from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs" / "models.md").read_text()


def table(heading: str) -> dict[str, dict[str, str]]:
    """The first table under a heading: cells by column, by the class that a row names."""
    lines = TEXT.split(f"\n{heading}\n")[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    head, _, *body = rows
    named = {}
    for row in body:
        (name,) = re.findall(r"`(\w+Pipeline)`", " ".join(row))
        named[name] = dict(zip(head, row, strict=True))
    return named


def yes(value: Any) -> str:
    return "yes" if value else "no"


def takes_lora(family: type[Backbone]) -> bool:
    """Whether diffusers' classes have adapters and a file for them."""
    return hasattr(family.network_class, "add_adapter") and hasattr(
        family.pipeline_class, "save_lora_weights"
    )


def facts(name: str) -> dict[str, str]:
    """The cells that the code decides."""
    family = family_of(name)
    own: Any = family.distilled
    plain: Any = Backbone.distilled
    told = own.__func__ is not plain.__func__
    return {
        "process": "flow" if family.is_flow else "diffusion",
        "LoRA": yes(takes_lora(family)),
        "all weights": "yes",
        "kohya file": yes(
            takes_lora(family) and not why_no_kohya(cast(Any, family), ImageSettings())
        ),
        "checkpointing": yes(family.network_class._supports_gradient_checkpointing),
        "distilled models": "refused" if told else "not told",
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_a_family_is_what_its_row_says(name):
    rows = table("## Families")
    wanted = f"| … | `{name}` | " + " | ".join(facts(name).values()) + " |"
    assert name in rows, f"add to the first table of docs/models.md: {wanted}"
    assert {key: rows[name][key] for key in facts(name)} == facts(name), wanted


@pytest.mark.parametrize("heading", ["## Families", "### What each family needs to know"])
def test_no_family_is_promised_that_is_not_there(heading):
    assert list(table(heading)) == list(BACKBONES)


def test_the_recipes_named_are_of_the_family():
    for name, row in table("### What each family needs to know").items():
        for recipe in re.findall(r"`(\w+)\.yaml`", row["a recipe"]):
            assert FAMILIES[recipe] == name


def test_beside_the_others_the_package_claims_what_it_does():
    rows = table("### Families")
    assert not [name for name in BACKBONES if name not in rows]
    for name, row in rows.items():
        wanted = "–"
        if name in BACKBONES:
            wanted = "L A P" if takes_lora(family_of(name)) else "A P"
        assert row["diffdpo"] == wanted, name


def test_every_weight_of_t_is_explained():
    assert not [name for name in WEIGHTS if f"| `{name}` |" not in TEXT]
