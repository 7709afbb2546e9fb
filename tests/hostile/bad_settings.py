"""Flags and YAML files that cannot work."""

from __future__ import annotations

from tests.hostile.case import Bad, Material


def image_flags(*words: str):
    """Image training with good data and model, and these flags."""

    def make(material: Material) -> list[str]:
        base = ["--pretrained_model_name_or_path", material.models(), "--dataset_name"]
        base += [material.pairs, "--output_dir", material.folder / "run", "--report_to", "none"]
        return [*map(str, base), *words]

    return make


CASES = [
    Bad(
        "a seed beyond 64 bits",
        "train_diffusion_dpo",
        image_flags("--seed", str(2**70)),
        r"--seed must ",
    ),
]
