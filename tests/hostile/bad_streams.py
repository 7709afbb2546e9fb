"""Data sets that cannot be streamed, and flags that do not go with --streaming."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.shards import parquet_shards, tar_shards
from tests.factory import encoded, pickapic_rows, picture
from tests.hostile.case import Bad, Material

PICTURE = encoded(picture(0))
RANKINGS = [{"prompt": "p", "image_path": ["a.png", "b.png"], "rank": [1, 2]}] * 4
TAR = [{"chosen.png": PICTURE, "rejected.png": PICTURE, "prompt.txt": "p"}] * 4


def streaming(write: Callable[[Path], Path], *words: str) -> Callable[[Material], list[str]]:
    """Training on the shards that ``write`` makes in an empty folder."""

    def make(material: Material) -> list[str]:
        flags = ["--pretrained_model_name_or_path", material.models(), "--resolution", 32]
        flags += ["--dataset_name", write(material.folder / "data"), "--report_to", "none"]
        flags += ["--precompute_dir", material.folder / "cache"]
        return [*map(str, [*flags, "--output_dir", material.folder / "run"]), "--streaming", *words]

    return make


def texts(*words: str) -> Callable[[Material], list[str]]:
    """The same of texts, whose file is no shard."""

    def make(material: Material) -> list[str]:
        flags = ["--model_name_or_path", material.lm, "--dataset_name", material.texts["pairs"]]
        flags += ["--report_to", "none", "--output_dir", material.folder / "run"]
        return [*map(str, flags), *words]

    return make


def good(folder: Path) -> Path:
    return parquet_shards(folder, pickapic_rows(8))


def cut(folder: Path) -> Path:
    path = tar_shards(folder, TAR, files=1) / "00000.tar"
    path.write_bytes(path.read_bytes()[:1300])
    return folder


def garbage(folder: Path) -> Path:
    (parquet_shards(folder, pickapic_rows(8)) / "train-00001-of-00002.parquet").write_bytes(b"x")
    return folder


def zipped(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w:gz"):
        return folder


def lines(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}\n")
    return folder


def needs_all(flag: str) -> str:
    return rf"--{flag} needs all rows before the first step, --streaming reads them later"


CASES = [
    Bad("a tar file that is cut off", "train_diffusion_dpo", streaming(cut),
        r"shard .*00000\.tar: is no whole tar file, without compression \(unexpected end"),
    Bad("a tar file that is compressed", "train_diffusion_dpo", streaming(zipped),
        r"shard .*a\.tar: is no whole tar file, without compression"),
    Bad("a parquet file that is none", "train_diffusion_dpo", streaming(garbage),
        r"shard .*00001-of-00002\.parquet: is no whole parquet file"),
    Bad("JSON lines", "train_diffusion_dpo", streaming(lines),
        r"data set .*: --streaming reads \.parquet and \.tar files, not train\.jsonl"),
    Bad("rankings", "train_diffusion_dpo",
        streaming(lambda folder: parquet_shards(folder, RANKINGS)),
        r"--streaming reads pairs, a row each, and these rows hold rankings"),
    Bad("a tar file without pairs", "train_diffusion_dpo",
        streaming(lambda folder: tar_shards(folder, [{"png": PICTURE, "txt": "a"}] * 4)),
        r"no image pairs in columns png, caption; needed are "),
    Bad("a name of the hub", "train_diffusion_dpo",
        streaming(lambda folder: Path("user/name")),
        r"data set user/name: --streaming reads files of this machine; download it first: hf dow"),
    Bad("another split", "train_diffusion_dpo", streaming(good, "--split", "test"),
        r"data set .*: has no split 'test'; found train"),
    Bad("latents before training", "train_diffusion_dpo", streaming(good, "--cache_latents"),
        needs_all("cache_latents")),
    Bad("scores before training", "train_diffusion_dpo",
        streaming(good, "--reference_draws", "2"), needs_all("reference_draws")),
    Bad("pairs held out", "train_diffusion_dpo", streaming(good, "--holdout", "2"),
        needs_all("holdout")),
    Bad("a buffer of nothing", "train_diffusion_dpo", streaming(good, "--buffer_size", "0"),
        r"--buffer_size must be at least 1"),
    Bad("a buffer without streaming", "train_text_dpo", texts("--buffer_size", "5"),
        r"--buffer_size is that of --streaming; leave it out"),
    Bad("texts in no shard", "train_text_dpo", texts("--streaming"),
        r"data set .*pairs\.jsonl: --streaming reads \.parquet and \.tar files"),
    *(
        Bad(f"texts and {flag}", "train_text_dpo", texts("--streaming", f"--{flag}", *value),
            needs_all(flag))
        for flag, value in (("group_by_length", []), ("precompute_ref_log_probs", []),
                            ("min_score_margin", ["0.1"]))
    ),
]  # fmt: skip
