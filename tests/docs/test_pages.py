"""Links, pictures, the tree and the tables of the pages are true."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from diffdpo.data.image_formats import IMAGE_FORMATS
from diffdpo.data.text import TEXT_FORMATS
from diffdpo.image.settings import ImageSettings
from diffdpo.losses import LOSSES
from diffdpo.metrics import REWARDS, TEXT_REWARDS
from diffdpo.text.recipes.switched_off import OPTIONS, SWITCHED_OFF
from diffdpo.text.settings import TextSettings
from tests.docs.blocks import PAGES, ROOT, blocks_of, name_of, prose_and_blocks

LINK = re.compile(r"\]\(([^)\s]+)\)")
DESIGN = ROOT / "docs" / "design.md"


def heading_anchor(line: str) -> str:
    """The anchor that a forge gives a heading."""
    words = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_and_pictures_exist(page):
    broken = []
    for number, line in prose_and_blocks(page)[0]:
        for target in LINK.findall(line):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if re.match(r"[a-z]+:", target):
                continue
            if not file.exists():
                broken.append(f"line {number}: {target}")
            elif anchor and anchor not in map(
                heading_anchor,
                [text for _, text in prose_and_blocks(file)[0] if text.startswith("#")],
            ):
                broken.append(f"line {number}: no heading {anchor}")
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_the_text_exist(page):
    """Paths in backticks that begin in a folder of the repository; runs/ is made by commands."""
    text = "\n".join(line for _, line in prose_and_blocks(page)[0])
    paths = re.findall(r"`((?:diffdpo|scripts|tests|assets|docs)/[\w./-]+)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_structure_is_what_the_imports_say():
    script = [sys.executable, str(ROOT / "scripts" / "print_structure.py")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    (block,) = [block for block in blocks_of(DESIGN) if block.kind == "text structure"]
    assert block.text == printed, "run python scripts/print_structure.py --update"


def test_the_tree_names_what_is_there():
    (block,) = [b for b in blocks_of(ROOT / "README.md") if b.kind == "text tree"]
    lines = block.text.splitlines()
    inside = lines[lines.index("diffdpo/") + 1 : [line[:8] for line in lines].index("scripts/")]
    named = {name for line in inside for name in re.split(r"\s{2,}", line.strip())[0].split()}
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "diffdpo").iterdir()
        if not path.name.startswith(("_", "."))
    }
    assert {name for name in named if not name.startswith("_")} == there - {"py.typed"}


def test_the_tree_of_tasks_names_classes_that_are_there():
    text = DESIGN.read_text()
    named = re.findall(r"(\w+) \((diffdpo/[\w/]+\.py)\)", text)
    assert named
    assert not [n for n in named if f"class {n[0]}" not in (ROOT / n[1]).read_text()]


@pytest.mark.parametrize("settings", [ImageSettings, TextSettings])
def test_flags_without_effect_stand_in_the_guide_with_their_reasons(settings):
    text = (ROOT / "docs" / "migrating.md").read_text()
    lines = settings.inert() | settings.refused()
    rows = [
        f"| `--{name}` | {reason} |" for name, reason in lines.items() if name not in SWITCHED_OFF
    ]
    families = [f"`--{first}_…`" for first in OPTIONS]
    assert not [row for row in rows + families if row not in text]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("design.md", LOSSES),
        ("text.md", TEXT_FORMATS),
        ("text.md", TEXT_REWARDS),
        ("choosing.md", REWARDS),
        ("rewards.md", REWARDS),
        ("choosing.md", IMAGE_FORMATS),
    ],
)
def test_every_row_of_a_table_of_the_code_is_documented(page, names):
    text = (ROOT / "docs" / page).read_text()
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_targets_are_those_of_the_benchmark():
    report = (ROOT / "assets" / "benchmark.md").read_text()
    table = report.split("## Targets")[1].split("## Steps")[0]
    rows = [line for line in table.splitlines() if "x |" in line]
    text = (ROOT / "docs" / "speed.md").read_text()
    assert len(rows) == 28
    assert not [row for row in rows if row not in text]


def test_the_readme_quotes_the_speed_that_the_docs_compute():
    (block,) = [b for b in blocks_of(ROOT / "docs" / "speed.md") if b.kind == "text output"]
    rows = [line for line in block.text.splitlines() if line.startswith("|")]
    readme = (ROOT / "README.md").read_text()
    assert len(rows) == 3
    assert not [row for row in rows if row not in readme]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1300


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert citation["version"] == version[1]
