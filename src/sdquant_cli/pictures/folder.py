"""A folder of pictures of one size, read in parts."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UsageProblem
from ..paths import check_folder, check_regular
from ..types import Kind
from .read import SUFFIXES, BadPicture, read_picture

_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder in order; `flag` is the option that named it."""

    flag: str
    folder: Path
    files: tuple[Path, ...]

    @property
    def key(self) -> str:
        """What tells this folder from others."""
        return str(self.folder.resolve())

    @property
    def name(self) -> str:
        """The flag with the folder, as messages begin."""
        return f"{self.flag} {self.folder}"

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.files)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first picture, which the others must have."""
        height, width, _ = self._read(self.files[0]).shape
        return height, width

    def pictures(self, start: int, stop: int) -> np.ndarray:
        """Return pictures start..stop - 1 (n,H,W,3), uint8; raises UsageProblem that names a bad file."""
        return np.stack(list(map(self.picture, range(start, min(stop, self.count)))))

    def picture(self, index: int) -> np.ndarray:
        """Return one picture (H,W,3), uint8; raises UsageProblem if it is bad, or of another size."""
        picture, (height, width) = self._read(self.files[index]), self.size
        if picture.shape != (height, width, 3):
            raise UsageProblem(
                f"{self.flag} {self.files[index]}: is {_pixels(picture.shape)}, expected "
                f"{_pixels(self.size)} as {self.files[0].name}"
            )
        return picture

    def _read(self, file: Path) -> np.ndarray:
        try:
            return read_picture(file)
        except BadPicture as error:
            raise UsageProblem(f"{self.flag} {file}: {error}") from None


def open_folder(folder: Path, flag: str) -> PictureFolder:
    """List the pictures of a folder; raises UsageProblem if it is missing or has none."""
    check_folder(folder, flag)
    files = sorted(filter(_is_picture, folder.iterdir()), key=_in_order)
    if not files:
        raise UsageProblem(f"{flag} {folder}: holds no pictures ({', '.join(SUFFIXES)})")
    for path in files:
        check_regular(path, flag)
    return PictureFolder(flag, folder, tuple(files))


def is_folder(name: str) -> bool:
    """Tell if a text names a folder: one that exists, or a path, which no stored artifact's name is."""
    first, slash, _ = name.partition("/")
    is_path = name in (".", "..") or bool(slash and first not in set(Kind))
    return is_path or (name != "" and Path(name).is_dir())


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _in_order(path: Path) -> tuple[list[str | int], str]:
    """Return what files are sorted by: their names, in which numbers count as numbers."""
    parts: list[str | int] = list(_NUMBER.split(path.stem))
    parts[1::2] = map(int, _NUMBER.findall(path.stem))
    return parts, path.name


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
