"""Which pictures of two folders belong together, and whether they can be compared."""

from dataclasses import replace
from pathlib import Path

from ..errors import UsageProblem
from ..events import Events
from .folder import PictureFolder


def paired(images: PictureFolder, reference: PictureFolder) -> tuple[PictureFolder, PictureFolder]:
    """Return both folders with pairs at the same place: of the same name, else of the same position.

    Raises UsageProblem if they hold unequal numbers, or share some names and not others.
    """
    ours, theirs = _by_name(images), _by_name(reference)
    if len(ours) != len(theirs):
        raise UsageProblem(
            f"{reference.name}: holds {len(theirs)} pictures, expected {len(ours)} as {images.name}"
            f"{_unpaired(ours, theirs)}"
        )
    if ours.keys() == theirs.keys():
        return images, replace(reference, files=tuple(map(theirs.__getitem__, ours)))
    if lone := _unpaired(ours, theirs):
        raise UsageProblem(
            f"{reference.name}: shares some names with {images.name} and not others{lone}; "
            f"expected the same names, or no shared one to compare in order"
        )
    return images, reference


def check_pictures(images: PictureFolder, reference: PictureFolder, events: Events) -> None:
    """Read every picture once; raises UsageProblem that names a file that is bad or of another size."""
    with events.task("checking", images.count + reference.count, "image") as task:
        for folder in (images, reference):
            for index in range(folder.count):
                folder.picture(index)
                task.advance()
    if images.size != reference.size:
        (height, width), (h, w) = images.size, reference.size
        raise UsageProblem(
            f"{reference.flag} {reference.files[0]}: is {w} x {h} pixels, expected {width} x {height} as "
            f"{images.flag} {images.files[0]}"
        )


def _by_name(folder: PictureFolder) -> dict[str, Path]:
    """Return the files by name without ending; raises UsageProblem for a name that occurs twice."""
    files: dict[str, Path] = {}
    for file in folder.files:
        if file.stem in files:
            raise UsageProblem(
                f"{folder.flag} {file}: has the name of {files[file.stem].name}, expected one picture a name"
            )
        files[file.stem] = file
    return files


def _unpaired(ours: dict[str, Path], theirs: dict[str, Path]) -> str:
    """Return which file has no counterpart, where others have one."""
    if not ours.keys() & theirs.keys():
        return ""
    for name, file in (ours | theirs).items():
        if not (name in ours and name in theirs):
            return f" ({file} has no counterpart)"
    return ""
