"""Builds the bundled preference pairs: one caption, two artists, Fluent 3D preferred to Noto.

    python scripts/assets/build_pairs.py

Reads the picture set of ``build_emoji.py``; writes
``assets/emoji-pairs/{train,validation,test}-00000.parquet`` in the schema of Pick-a-Pic. The
winner's side is a coin toss by caption. One training pair in twenty is a tie: the same picture on
both sides, labelled 0.5.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from common import ARTISTS, ASSETS, PAIR_SPLITS, WORK, Emoji, fraction, load_emoji, split_of
from PIL import Image

TARGET = ASSETS / "emoji-pairs"
MOST = {"train": 300, "validation": 60, "test": 120}
TIE_SHARE = 0.05


def as_png(emoji: Emoji, artist: int, row: int) -> bytes:
    """One drawing as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(emoji.pixels[artist, row]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def pair(emoji: Emoji, row: int, split: str) -> dict[str, object]:
    """One row in the schema of Pick-a-Pic; artist 0 is the preferred one."""
    caption = emoji.captions[row]
    # Side, tie and choice are functions of the caption: more captions leave the old rows alone.
    sides = (0, 1) if fraction(caption, "side") < 0.5 else (1, 0)
    label = float(sides[0] == 0)
    if split == "train" and fraction(caption, "tie") < TIE_SHARE:
        sides, label = (1, 1), 0.5
    names = [f"{ARTISTS[side]}/{caption}" for side in sides]
    best = names[0] if label == 1 else names[1] if label == 0 else "tie"
    return {
        "are_different": sides[0] != sides[1],
        "best_image_uid": best,
        "caption": caption,
        "has_label": True,
        "image_0_uid": names[0],
        "image_1_uid": names[1],
        "jpg_0": as_png(emoji, sides[0], row),
        "jpg_1": as_png(emoji, sides[1], row),
        "label_0": label,
        "label_1": 1 - label,
        "model_0": ARTISTS[sides[0]],
        "model_1": ARTISTS[sides[1]],
        "ranking_id": row,
    }


def main() -> None:
    """Write the three splits."""
    emoji = load_emoji(WORK / "emoji")
    TARGET.mkdir(parents=True, exist_ok=True)
    for split in PAIR_SPLITS:
        rows = [row for row, caption in enumerate(emoji.captions) if split_of(caption) == split]
        rows = sorted(rows, key=lambda row: fraction(emoji.captions[row], "pick"))[: MOST[split]]
        table = pd.DataFrame([pair(emoji, row, split) for row in rows])
        path = TARGET / f"{split}-00000.parquet"
        table.to_parquet(path)
        ties = int((table.label_0 == 0.5).sum())
        print(f"{split:<12}{len(table):>5} pairs, {ties} ties, {size(path)} kB")


def size(path: Path) -> int:
    """The size of a file in kB."""
    return path.stat().st_size // 1000


if __name__ == "__main__":
    main()
