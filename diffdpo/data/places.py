"""Where the rows of a data set come from, and which files they may name."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub import constants

from diffdpo.data.paths import split_words
from diffdpo.errors import short

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")  # of pictures that are named without one


class BadName(ValueError):
    """A name in a data set that leads to no file, or to one that the data set may not name."""


@dataclass(frozen=True)
class Place:
    """The origin of rows.

    ``roots`` are the folders that names must not leave: the data folder, or for a data set from
    the hub the folders of its downloads. None: the rows were handed over in memory by the program
    that runs, which may name what it likes.
    """

    roots: tuple[Path, ...] | None = None
    from_hub: bool = False

    @classmethod
    def of(cls, name: str | None, cache_dir: str | None = None) -> Place:
        """The place of the data set ``name``, or of several with commas between them; None: in
        memory."""
        if name is None:
            return cls()
        if len(names := split_words([name])) > 1:
            parts = [cls.of(one, cache_dir) for one in names]
            roots = [root for part in parts for root in part.roots or ()]
            return cls(tuple(dict.fromkeys(roots)), any(part.from_hub for part in parts))
        downloads = [datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE]
        downloads += [Path(cache_dir) / "downloads"] if cache_dir else []
        downloads = [Path(folder).resolve() for folder in downloads]
        path = Path(name)
        if not path.exists():
            return cls(tuple(downloads), from_hub=True)
        root = path.resolve() if path.is_dir() else path.resolve().parent
        # In the hub's own cache a data set consists of links to files beside its folder.
        return cls((root, *(folder for folder in downloads if root.is_relative_to(folder))))

    def file(self, name: str, folder: str | Path | None = None) -> Path:
        """The file that a row names; a relative name is relative to ``folder``, or to the data
        folder. Sets that name pictures by an id leave the ending out.

        In a local data set an absolute name may lie anywhere. Raises BadName otherwise, and for
        what is no regular file: opening a pipe or a device may never end.
        """
        base = Path(folder or "") if self.roots is None else Path(folder or self.roots[0])
        path = with_ending(base / name)
        checked = self.from_hub or (self.roots is not None and not Path(name).is_absolute())
        try:
            if checked and not any(
                path.resolve().is_relative_to(root) for root in self.roots or ()
            ):
                raise BadName(
                    f"names {short(name)!r}, a file of this machine; data from the hub may not"
                    if self.from_hub
                    else f"{short(name)!r} leads out of the data folder; give its absolute path"
                )
            mode = path.stat().st_mode
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, BadName):
                raise
            hint = "; folders are parted by /, not \\" if "\\" in name else ""
            raise BadName(f"no such file: {short(name)!r}{hint}") from error
        if not stat.S_ISREG(mode):
            raise BadName(f"{short(name)!r} is a folder, a pipe or a device, not a file")
        return path


def with_ending(path: Path) -> Path:
    """The path with the first of ``ENDINGS`` that makes it a file's, where it is none without."""
    try:
        if path.suffix or path.exists():
            return path
        return next((file for e in ENDINGS if (file := Path(f"{path}{e}")).exists()), path)
    except (OSError, ValueError):  # a name that no file can have
        return path
