"""Files named by the user or kept in caches: checks before work begins, and atomic writes.

Standard library only.
"""

import contextlib
import functools
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from .errors import UsageProblem, first_line

STORE_HEADER = "sdquant-store.json"  # the file in the root of every store
HTML, PNG = b"<!doctype html>", b"\x89PNG"  # first bytes of such files
Name = TypeVar("Name", str, Path)

# ------------------------------------------------------------------------------------- input


def plain(name: Name) -> Name:
    """Return the same text or path, with a leading `~` replaced by the home folder.

    Raises ValueError for text that cannot name a file or be stored in an artifact.
    """
    text = str(name)
    if "\0" in text:
        raise ValueError("expected text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    if not text.startswith("~"):
        return name
    try:
        return type(name)(Path(text).expanduser())
    except RuntimeError:  # no such user, or one without a home
        return name


def check_regular(path: Path, flag: str) -> None:
    """Raise UsageProblem unless `path` is a regular file: a pipe or a device may never end."""
    with _usage(path, flag):
        if not path.exists():
            raise UsageProblem(f"{flag} {path}: no such file")
        if path.is_dir():
            raise UsageProblem(f"{flag} {path}: is a folder, expected a file")
        if not path.is_file():
            raise UsageProblem(f"{flag} {path}: is a pipe, a socket or a device, expected a regular file")


def check_folder(path: Path, flag: str) -> None:
    """Raise UsageProblem unless `path` is a folder that exists."""
    with _usage(path, flag):
        if not path.exists():
            raise UsageProblem(f"{flag} {path}: no such folder")
        if not path.is_dir():
            raise UsageProblem(f"{flag} {path}: is a file, expected a folder")


# ------------------------------------------------------------------------------------- cache


def cache_folder(name: str) -> Path:
    """Return `sdquant/<name>` in $XDG_CACHE_HOME, else in ~/.cache; the folder is not created.

    The temporary folder is used where neither can be written: without a home, or with a variable that names
    a file.
    """
    folder = _usual_cache() / "sdquant" / name
    return folder if _can_hold(folder) else temporary_cache() / name


def _usual_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a passwd entry and without HOME
        return Path(os.devnull)


def _can_hold(folder: Path) -> bool:
    """Tell if a folder exists or can be created."""
    try:
        if folder.is_dir():
            return True
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except OSError:
        return False


@functools.cache
def temporary_cache() -> Path:
    """Return a folder that only this user can write to, since libraries are loaded from it."""
    import tempfile  # seldom needed, and slow to import

    folder = Path(tempfile.gettempdir()) / f"sdquant-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="sdquant-"))
    logging.getLogger(__name__).warning(
        "no cache folder can be written; using %s (set XDG_CACHE_HOME to keep cached files)", folder
    )
    return folder


# ------------------------------------------------------------------------------------ output


def check_output(path: Path, flag: str, store: str | None = None) -> None:
    """Raise UsageProblem if a file cannot or must not be written at `path`; call it before any work.

    No file is written into a store, that of the command or any other.
    """
    with _usage(path, flag):
        _refuse_store(path, flag, store)
        if path.is_dir():
            raise UsageProblem(f"{flag} {path}: is a folder, expected a file")
        if not path.parent.is_dir():
            raise UsageProblem(f"{flag} {path}: there is no folder {path.parent}")
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageProblem(f"{flag} {path}: cannot be written; pass another file")
        in_place = path.exists() and not path.is_file()  # a device is not replaced
        if not in_place and not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageProblem(f"{flag} {path}: {path.parent} cannot be written; pass another folder")


def check_output_folder(path: Path, flag: str, store: str | None) -> None:
    """Raise UsageProblem if `path` cannot or must not be an output folder; call it before any work."""
    with _usage(path, flag):
        _refuse_store(path, flag, store)
        nearest = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if not nearest.is_dir():
            raise UsageProblem(f"{flag} {path}: {nearest} is a file, expected a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UsageProblem(f"{flag} {path}: {nearest} cannot be written; pass another folder")


@contextlib.contextmanager
def _usage(path: Path, flag: str) -> Iterator[None]:
    """Turn an error of the system about a path, such as a loop of links, into a UsageProblem."""
    try:
        yield
    except OSError as error:
        raise UsageProblem(f"{flag} {path}: {error.strerror or first_line(error)}") from None
    except RuntimeError as error:  # for a loop of links, before Python 3.13
        raise UsageProblem(f"{flag} {path}: {first_line(error)}") from None


def _refuse_store(path: Path, flag: str, store: str | None) -> None:
    """Raise UsageProblem for a path inside this store or another one."""
    current = None if store is None or "://" in store else Path(store).resolve()
    resolved = path.resolve()
    for folder in (resolved, *resolved.parents):
        if folder == current or (folder / STORE_HEADER).is_file():
            raise UsageProblem(f"{flag} {path}: {folder} is a store, which holds only artifacts")


def check_overwrites(path: Path, flag: str, beginning: bytes, kind: str) -> None:
    """Raise UsageProblem if `path` is a file that does not begin as files of this kind do."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(1000).lstrip()
    if head and not head.lower().startswith(beginning.lower()):
        raise UsageProblem(f"{flag} {path}: exists and is not {kind}; remove it, or pass another file")


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in the same folder; it is renamed to `path` at the end, or removed."""
    partial = path.with_name(_partial_name(path, str(os.getpid())))
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(path: Path) -> None:
    """Remove what killed processes left of writing `path`."""
    for partial in path.parent.glob(_partial_name(path, "*")):
        partial.unlink(missing_ok=True)


def _partial_name(path: Path, process: str) -> str:
    """Return the name of a partial file; with the end of a long name, which must fit 255 bytes."""
    return f".{path.name[-48:]}-{process}.partial"


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write a file completely or leave it as it was; a device is written to directly."""
    content = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    target = path.resolve()  # a link stays a link
    with partial_file(target) as partial:
        with partial.open("wb") as file:  # in the mode that the umask gives
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            partial.chmod(stat.S_IMODE(target.stat().st_mode))


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_append(path: Path, text: str) -> None:
    """Append the whole text to a file, or nothing."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError:
        if path.is_file():
            os.truncate(path, before)
        raise
