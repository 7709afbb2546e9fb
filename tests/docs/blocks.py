"""The code blocks of README.md and docs/*.md, each with what its opening line says about it.

```sh run                the tests run it, in order, in a scratch folder
```sh slow               the same under -m slow
```sh check              not run: every command and flag in it must exist
```python                executed, in order with the ``sh run`` blocks of its page
```python excerpt PATH   lines of the file PATH
```text output           what the block before it prints
```text structure        what scripts/print_structure.py prints
```text tree             the tree of the repository
```yaml rounds           a plan that ``diffdpo rounds`` reads; the files it names need not exist
```text                  an illustration
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {"sh run", "sh slow", "sh check", "python", "python excerpt"}
KINDS |= {"text", "text output", "text structure", "text tree", "yaml rounds"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its page and line, the words after the fence, and what stands in it."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def kind(self) -> str:
        """The first two words: language and class."""
        return " ".join(self.info.split()[:2])

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def name_of(page: Path) -> str:
    """How a page is called in the names of tests."""
    return str(page.relative_to(ROOT))


def prose_and_blocks(page: Path) -> tuple[list[tuple[int, str]], list[Block]]:
    """The numbered lines outside of fences, and the blocks inside them."""
    prose: list[tuple[int, str]] = []
    blocks: list[Block] = []
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("```") and opened is None:
            opened, inside = (number, line[3:].strip()), []
        elif line.startswith("```") and opened is not None:
            blocks.append(Block(page, *opened, "\n".join(inside) + "\n"))
            opened = None
        elif opened is not None:
            inside.append(line)
        else:
            prose.append((number, line))
    assert opened is None, f"{page}: the block of line {opened} is not closed"
    return prose, blocks


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return prose_and_blocks(page)[1]


def command_lines(block: Block) -> list[str]:
    """The commands of a shell block: continued lines joined, comments and blank lines left out."""
    joined = block.text.replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
