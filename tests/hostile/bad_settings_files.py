"""YAML files of settings that cannot be read."""

from __future__ import annotations

from tests.hostile.bad_settings import Make, text
from tests.hostile.case import Bad, Material


def file(content: str | bytes) -> Make:
    """A YAML file with this content beside good flags."""

    def make(material: Material) -> list[str]:
        path = material.folder / "settings.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return text("--config", str(path))(material)

    return make


FILES = {
    "nothing": ("# a comment\n", ".*settings.yaml: holds no settings"),
    "a list": ("- 1\n- 2\n", ".*expected 'name: value' lines, found list"),
    "not YAML": ("a: [1, 2", ".*settings.yaml: while parsing"),
    "no text": (b"\xff\xfe\x00", ".*settings.yaml: "),
    "a name twice": ("seed: 1\nseed: 2\n", ".*seed stands here twice"),
    "a setting under two names": (
        "max_steps: 1\nmax_train_steps: 2\n",
        ".*max_steps and max_train_steps are one setting",
    ),
    "20,000 brackets": ("seed: " + "[" * 20000, ".*nested too deeply"),
    "a python object": ("seed: !!python/object/apply:os.getcwd []\n", ".*constructor"),
    "a null where a number is needed": ("seed:\n", ".*seed has no value"),
    "a loop": ("seed: &x [*x]\n", ".*seed is a list; one value is wanted"),
    "an unknown name": ("learning_rat: 1\n", ".*did you mean learning_rate"),
    "a null byte": ('tracker_name: "a\\0b"\n', "--tracker_name holds a null byte"),
}


def missing_file(material: Material) -> list[str]:
    return text("--config", "no/such/file.yaml")(material)


def a_folder(material: Material) -> list[str]:
    return text("--config", str(material.folder))(material)


CASES = [
    *(Bad(n, "train_text_dpo", file(content), line) for n, (content, line) in FILES.items()),
    Bad("missing", "train_text_dpo", missing_file, "--config no/such/file.yaml: "),
    Bad("a folder", "train_text_dpo", a_folder, ".*Is a directory"),
]
