"""Builds the bundled review texts with their human ratings, preference pairs and labels.

    pip download --no-binary :all: --no-deps vaderSentiment
    python scripts/assets/build_reviews.py --sdist vaderSentiment-3.3.2.tar.gz

Reads sentences of movie and product reviews, each rated by some 20 people from −4 to 4 (Hutto &
Gilbert 2014). Writes ``assets/reviews/{texts,pairs,labels}/{train,validation,test}-00000.parquet``.
A text's split is a function of the text alone, so no text of one split is in another, in whatever
form.
"""

from __future__ import annotations

import html
import io
import re
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from common import ASSETS, fraction, parser_of

from diffdpo.engine.files import write_atomically

TARGET = ASSETS / "reviews"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
DOMAINS = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
}
VALIDATION_SHARE, TEST_SHARE = 0.07, 0.13
WORDS = (5, 45)
# A rating this far from 0 is clearly good or bad, so the two sides of a pair are 2 apart at least.
CLEAR = 1.0
LENGTH_RATIO = 1.2  # of the two sides, so that length is not what is learned
SHARED = (4, 3, 2, 1)  # words that the two texts of a pair begin with, most first
ENDS = re.compile(r"[.!?…][\"')]*$")
UNFIT = re.compile(
    r"\b(arse|ass|dicks?|tits|jerking|(crap|shit|fuck|bitch|porn|sex|rape|rapist|nazi|whor|slut|"
    r"damn|suck|erotic|masturb)\w*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Review:
    """One sentence or two with the mean of its human ratings."""

    text: str
    domain: str
    rating: float

    @property
    def words(self) -> list[str]:
        """The text cut at its spaces."""
        return self.text.split(" ")

    @property
    def split(self) -> str:
        """train, validation or test: a function of the words alone."""
        # Not of case and punctuation, or copies of a text could fall into two splits.
        position = fraction(re.sub(r"\W+", " ", self.text.lower()).strip(), "review")
        if position < VALIDATION_SHARE:
            return "validation"
        return "test" if position < VALIDATION_SHARE + TEST_SHARE else "train"


def clean(raw: str) -> str:
    """The text with entities resolved, lost dashes put back and plain quotes."""
    # Unescaped twice, because the source has escaped some texts twice.
    text = html.unescape(html.unescape(raw)).strip()
    # Three spaces and more stand where the source has lost a dash.
    text = re.sub(r"\s{3,}", " – ", text).replace("''", '"').replace("’", "'")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ([,.!?;:])", r"\1", text)
    return text[1:-1].strip() if text[0] == text[-1] == "'" or text[0] == text[-1] == '"' else text


def is_usable(text: str) -> bool:
    """Whether a text is whole sentences of ordinary length that can be shown to anyone."""
    is_clean = (
        text[0].isalpha()
        and ENDS.search(text)
        and text.count('"') % 2 == 0
        and not UNFIT.search(text)
    )
    return bool(is_clean) and WORDS[0] <= text.count(" ") + 1 <= WORDS[1]


def read(sdist: Path) -> tuple[list[Review], str]:
    """All usable texts, each once, and the licence of the package they come in."""
    with tarfile.open(sdist) as outer:
        top = outer.getnames()[0].split("/")[0]
        files: Any = (outer.extractfile(f"{top}/{name}") for name in (ARCHIVE, "LICENSE.txt"))
        inner, licence = (file.read() for file in files)
    by_text: dict[str, Review] = {}
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        for domain, name in DOMAINS.items():
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
            lines = file.read().decode("utf-8-sig").splitlines()  # type: ignore[union-attr]
            for _, rating, raw in (line.split("\t") for line in lines if line):
                text = clean(raw)
                if is_usable(text):
                    by_text.setdefault(text.lower(), Review(text, domain, round(float(rating), 4)))
    return list(by_text.values()), licence.decode()


def texts(reviews: list[Review]) -> pd.DataFrame:
    """The table of all texts, which the language model is trained on."""
    return pd.DataFrame([{"text": r.text, "domain": r.domain, "rating": r.rating} for r in reviews])


def pairs(reviews: list[Review]) -> pd.DataFrame:
    """The table of pairs: two texts that begin with the same words, one clearly good and the other
    clearly bad, each text once.

    The words they share are the prompt, the rest of each is a completion.
    """
    left = [review for review in reviews if abs(review.rating) >= CLEAR]
    rows = []
    # Longer prompts first: a text that matches on four words should not be spent on one.
    for shared in SHARED:
        groups = defaultdict(list)
        for review in left:
            if len(review.words) > shared + 2:
                groups[review.domain, tuple(review.words[:shared])].append(review)
        matched = [match for group in groups.values() for match in match_by_length(group)]
        rows += [pair_row(good, bad, shared) for good, bad in matched]
        used = {review for match in matched for review in match}
        left = [review for review in left if review not in used]
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


def match_by_length(group: list[Review]) -> list[tuple[Review, Review]]:
    """Pairs of good and bad texts of about the same length, each text once."""
    bad = [r for r in group if r.rating < 0]
    matches = []
    # By chance, not by length: from the shortest on, the good ones would take the bad ones that are
    # a little longer, and length would give the label away.
    for good in sorted((r for r in group if r.rating > 0), key=lambda r: fraction(r.text, "match")):
        near = min(bad, key=lambda r: abs(len(r.text) - len(good.text)), default=None)
        if near and max(len(near.text), len(good.text)) <= LENGTH_RATIO * min(
            len(near.text), len(good.text)
        ):
            matches.append((good, near))
            bad.remove(near)
    return matches


def pair_row(good: Review, bad: Review, shared: int) -> dict[str, object]:
    """One row of the table of pairs."""
    prompt = " ".join(good.words[:shared])
    sides = {"chosen": good.text[len(prompt) :], "rejected": bad.text[len(prompt) :]}
    scores = {"score_chosen": good.rating, "score_rejected": bad.rating}
    return {"prompt": prompt, **sides, **scores, "domain": good.domain}


def labels(reviews: list[Review]) -> pd.DataFrame:
    """The table of labels: clearly good and clearly bad texts one by one; the first two, three or
    four words of each are the prompt."""
    rows = []
    for review in reviews:
        prompt = " ".join(review.words[: 2 + int(3 * fraction(review.text, "prompt"))])
        if abs(review.rating) >= CLEAR and len(prompt) < len(review.text):
            rows.append(
                {
                    "prompt": prompt,
                    "completion": review.text[len(prompt) :],
                    "label": review.rating > 0,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Write all tables, and the licence beside them."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--sdist", type=Path, required=True, help="the source package as downloaded"
    )
    reviews, licence = read(parser.parse_args().sdist)
    for name, make in (("texts", texts), ("pairs", pairs), ("labels", labels)):
        (TARGET / name).mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation", "test"):
            table = make([review for review in reviews if review.split == split])
            path = TARGET / name / f"{split}-00000.parquet"
            table.to_parquet(path, compression="zstd")
            print(f"{name:<8}{split:<12}{len(table):>6} rows, {path.stat().st_size // 1000} kB")
    write_atomically(TARGET / "LICENSE", licence.replace("\r", "").rstrip() + "\n")


if __name__ == "__main__":
    main()
