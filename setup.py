"""Puts the bundled models, data and recipes inside the package of a wheel; the rest of the build is
in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Pictures and figures of the README stay out.
BUNDLED = [
    "assets/README.md",
    "assets/licenses",
    "assets/emoji-flow",
    "assets/emoji-pairs",
    "assets/emoji-pipeline",
    "assets/reviews",
    "assets/reviews-model",
    "assets/style-judge",
    "scripts/recipes",
]


class BuildWithBundled(build_py):
    """In an editable installation the folders are found beside the package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in BUNDLED:
            source, target = Path(name), Path(self.build_lib) / "diffdpo" / "_bundled" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithBundled})
