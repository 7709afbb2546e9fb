"""Builds the picture set: 64×64 emoji on white, each caption drawn by two artists.

Needs, beside ``pip install -e .[assets]`` (caption names come from the package ``emoji``):

    apt-get download fonts-noto-color-emoji
    dpkg-deb -x fonts-noto-color-emoji_*.deb noto
    npm pack @lobehub/fluent-emoji-3d
    tar xzf lobehub-fluent-emoji-3d-*.tgz  # unpacks to package/
    FONT=noto/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
    python scripts/assets/build_emoji.py --font $FONT --fluent package/assets

Where ``fonts-noto-color-emoji`` is installed, its font is taken without ``--font``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import emoji
import numpy as np
from common import ARTISTS, OTHER, PREFERRED, SIZE, WORK, parser_of, sheet, split_of
from PIL import Image, ImageDraw, ImageFont

DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the only size the font's bitmaps come in
MARGIN = 2
VARIATION = "\ufe0f"


def named_code_points() -> dict[str, str]:
    """Caption → character, for emoji of a single code point."""
    full = emoji.STATUS["fully_qualified"]
    return {
        entry["en"].strip(":").replace("_", " "): text.replace(VARIATION, "")
        for text, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == full and len(text.replace(VARIATION, "")) == 1
    }


def on_white(picture: Image.Image) -> np.ndarray | None:
    """The drawing on a white square, cut to its bounds and centred with a small margin; None where
    the picture is empty."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 12)).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    room = SIZE - 2 * MARGIN
    scale = room / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Resized with premultiplied alpha, else the colour behind transparent pixels bleeds into the
    # edge.
    picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(picture, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(canvas.convert("RGB"))


def draw_noto(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """The character as the font draws it."""
    picture = Image.new("RGBA", (160, 160), (255, 255, 255, 0))
    ImageDraw.Draw(picture).text((10, 10), character, font=font, embedded_color=True)
    return on_white(picture)


def draw_fluent(character: str, folder: Path) -> np.ndarray | None:
    """The character from the Fluent picture files; None where they lack it."""
    # File names are not uniform: with or without the variation selector, with or without zeros.
    stem = f"{ord(character):x}"
    for name in (stem, f"{stem}-fe0f", stem.zfill(4), f"{stem.zfill(4)}-fe0f"):
        path = folder / f"{name}.webp"
        if path.exists():
            with Image.open(path) as picture:
                return on_white(picture)
    return None


def is_missing(picture: np.ndarray | None, missing: np.ndarray | None) -> bool:
    """Whether there is no drawing, or the font's sign for one that it lacks."""
    return picture is None or (missing is not None and np.array_equal(picture, missing))


def main() -> None:
    """Draw every caption that both artists have, and write the picture set."""
    parser = parser_of(__doc__)
    parser.add_argument("--font", type=Path, default=DEBIAN_FONT)
    parser.add_argument("--fluent", type=Path, required=True, help="folder of the webp files")
    parser.add_argument("--output_dir", type=Path, default=WORK / "emoji")
    args = parser.parse_args()

    font = ImageFont.truetype(str(args.font), STRIKE)
    # A private code point, which no font has: the sign that stands for what is missing.
    missing = draw_noto("\U000f0000", font)
    captions, pictures = [], []
    for caption, character in sorted(named_code_points().items()):
        drawn = {PREFERRED: draw_fluent(character, args.fluent), OTHER: draw_noto(character, font)}
        if not any(is_missing(picture, missing) for picture in drawn.values()):
            captions.append(caption)
            pictures.append([drawn[artist] for artist in ARTISTS])
    pixels = np.asarray(pictures, dtype=np.uint8).swapaxes(0, 1)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output_dir / "emoji.npz", captions=np.array(captions), pixels=pixels)
    sheet(
        pixels[:, ::24].swapaxes(0, 1).reshape(-1, SIZE, SIZE, 3),
        18,
        args.output_dir / "preview.png",
    )
    print(
        f"{len(captions)} captions × {len(ARTISTS)} artists; by split:"
        f" {dict(Counter(map(split_of, captions)))}"
    )


if __name__ == "__main__":
    main()
