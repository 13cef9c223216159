"""Objects by path, each created once. Local folders and S3 buckets share this code through obstore."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from ..errors import EnvironmentProblem, UsageProblem, first_line
from ..paths import sync

if TYPE_CHECKING:
    from obstore.store import RetryConfig

T = TypeVar("T")
R = TypeVar("R")
Bytes = bytes | bytearray | memoryview
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "file")
RETRIES: RetryConfig = {  # about three minutes of outage; obstore's default ten attempts last a few seconds
    "max_retries": 60,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(seconds=1), "max_backoff": timedelta(seconds=10), "base": 2},
}
CHECKSUMS = {"aws_checksum_algorithm": "SHA256"}  # of uploads, which the server checks
CONFLICT_WAITS = (0.2, 1.0, 3.0, 10.0)  # seconds after each 409 that left no object
PARALLEL_REQUESTS = 16  # to a server
_MEANINGS = (
    ("No space left", "the disk is full"),
    ("Read-only file system", "it is read-only"),
    ("ermission denied", "permission is denied"),
    ("NoSuchBucket", "there is no such bucket"),
)


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn obstore's and the system's errors into one line that names the path."""
    try:
        yield
    except (AlreadyExistsError, FileNotFoundError):
        raise
    except (BaseError, OSError) as error:
        for sign, meaning in _MEANINGS:
            if sign in str(error):
                raise EnvironmentProblem(
                    f"{where}: {meaning}; stored data is intact, fix this and run the same command again, "
                    f"or pass another --store"
                ) from None
        raise EnvironmentProblem(
            f"{where}: {first_line(error)}; stored data is intact, run the same command again"
        ) from None


def _folder(url: str) -> Path | None:
    """Return the folder that --store names, None for a bucket; raises UsageProblem for a file."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme.lower() in SCHEMES and not rest.startswith("//"):
        raise UsageProblem(f"--store {url}: expected two slashes, as in {scheme}://{rest.lstrip('/')}")
    if "://" in url and not (scheme.lower() in SCHEMES and rest.strip("/")):
        raise UsageProblem(f"--store {url}: expected a folder, or a bucket as in s3://bucket/prefix")
    if scheme.lower() == "file":
        folder = Path(unquote(urlsplit(url).path))
    elif "://" in url:
        return None
    else:
        folder = Path(os.path.expanduser(url)).absolute()  # noqa: PTH111  # Path.expanduser raises without a home
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not nearest.is_dir():
        raise UsageProblem(f"--store {url}: {nearest} is a file, a store is a folder")
    return folder


@dataclass(frozen=True)
class Found:
    """An object that a listing found."""

    path: str
    size: int  # bytes
    modified: datetime  # by the clock of the server, or of the disk

    @classmethod
    def of(cls, root: Path, file: Path) -> Found:
        """Return a file below a root; raises OSError."""
        status = file.stat()
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return cls(file.relative_to(root).as_posix(), status.st_size, modified)


class Objects:
    """The objects under a root, each path written at most once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.local = _folder(url)
        self._durable: set[Path] = set()  # folders whose entries are synced to disk

    @cached_property
    def _backend(self) -> ObjectStore:
        """The obstore store, opened on first use: listing an absent store creates nothing."""
        with plain_errors(self.url):
            return self.below("")

    def below(self, prefix: str) -> ObjectStore:
        """Return an obstore store rooted at a prefix."""
        if self.local is None:
            url, s3 = f"{self.url}/{prefix}".rstrip("/"), self.url.lower().startswith("s3")
            return from_url(url, config=CHECKSUMS if s3 else None, retry_config=RETRIES)
        return LocalStore(prefix=self.local / prefix, mkdir=True)

    # ----------------------------------------------------------------------------- reading

    def read(self, path: str) -> bytes | None:
        """Return the bytes at `path`; None if there is no such file."""
        try:
            with plain_errors(f"{self.url}/{path}"):
                if self.local is None:
                    return bytes(obstore.get(self._backend, path).bytes())
                file = self.local / path
                return file.read_bytes() if file.is_file() else None  # reading a pipe would block
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return path and size of every object below `prefix`; links to folders are not followed."""
        return {item.path: item.size for item in self.found(prefix)}

    def found(self, prefix: str) -> list[Found]:
        """Return every object below `prefix`; links to folders are not followed."""
        with plain_errors(f"{self.url}/{prefix}"):
            if self.local is not None:
                return list(_files(self.local, prefix))
            listed = [item for page in obstore.list(self._backend, prefix=prefix) for item in page]
        return [Found(item["path"], item["size"], item["last_modified"]) for item in listed]

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders right below `prefix`, in order."""
        with plain_errors(f"{self.url}/{prefix}"):
            if self.local is None:
                listed = obstore.list_with_delimiter(self._backend, prefix=prefix)["common_prefixes"]
                return sorted(path.rpartition("/")[2] for path in listed)
            top = self.local / prefix
            return sorted(path.name for path in top.iterdir() if path.is_dir()) if top.is_dir() else []

    def each(self, read: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return `read(item)` for all items, in parallel on a server."""
        if self.local is not None:
            return [read(item) for item in items]
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            return list(pool.map(read, items))

    # ----------------------------------------------------------------------------- writing

    def create(self, path: str, data: Bytes, *, durable: bool = True) -> bool:
        """Store bytes at `path`, `durable`: synced to disk; return False if an object is there already."""
        with plain_errors(f"{self.url}/{path}"):
            if self.local is None:
                return self._create_on_server(path, data)
            try:
                created = self._create_by_rename(self.local, path, data, durable=durable)
            except FileNotFoundError:  # a process that published took the staged file for a leftover
                created = self._create_by_rename(self.local, path, data, durable=durable)
            if created and durable:
                self._sync_folders(self.local, path)
            return created

    def _create_by_rename(self, root: Path, path: str, data: Bytes, *, durable: bool) -> bool:
        """Write and sync a staged file, then rename it, so that `path` never has partial contents."""
        staged = f"{path}.{secrets.token_hex(4)}.partial"
        obstore.put(self._backend, staged, data)
        if durable:
            sync(root / staged)
        try:
            obstore.rename(self._backend, staged, path, overwrite=False)
        except AlreadyExistsError:
            obstore.delete(self._backend, staged)
            return False
        return True

    def _sync_folders(self, root: Path, path: str) -> None:
        """Sync the folders that lead to a new file."""
        folder = (root / path).parent
        sync(folder)
        while folder not in self._durable and folder != root.parent:
            self._durable.add(folder)
            folder = folder.parent
            sync(folder)

    def _create_on_server(self, path: str, data: Bytes) -> bool:
        """Create an object. S3 answers 409, reported as existing, while another request creates it."""
        for wait in CONFLICT_WAITS:
            try:
                obstore.put(self._backend, path, data, mode="create")
            except AlreadyExistsError:
                if self._is_on_server(path):
                    return False
                time.sleep(wait)
            else:
                return True
        raise EnvironmentProblem(
            f"{self.url}/{path}: the server reports a conflict each time; try again later"
        )

    def _is_on_server(self, path: str) -> bool:
        try:
            obstore.head(self._backend, path)
        except FileNotFoundError:
            return False
        return True

    # ---------------------------------------------------------------------------- removing

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; paths without an object are ignored."""
        with plain_errors(self.url):
            if self.local is not None:
                for path in paths:
                    (self.local / path).unlink(missing_ok=True)
            elif paths:
                obstore.delete(self._backend, paths)

    def remove_folder(self, prefix: str, first: str) -> None:
        """Delete all objects below `prefix`, `first` before the rest. Links are removed, not followed."""
        if self.local is None:
            self.delete([f"{prefix}/{first}"])
            self.delete(list(self.sizes(prefix)))
            return
        folder = self.local / prefix
        if link := next((p for p in folder.parents if p != self.local and _is_link_in(p, self.local)), None):
            raise UsageProblem(
                f"{link} is a link out of the store, where sdquant removes nothing; remove "
                f"{link.resolve()}/{folder.relative_to(link)} by hand"
            )
        with plain_errors(str(folder)):
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                (folder / first).unlink(missing_ok=True)
                sync(folder)
                shutil.rmtree(folder)
        self._durable.clear()


def _is_link_in(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and path.is_symlink()


def _files(root: Path, prefix: str) -> Iterator[Found]:
    """Yield the regular files below a prefix."""
    for folder, _, names in os.walk(root / prefix):
        for name in names:
            with suppress(OSError):  # a dangling link, or a file removed meanwhile
                path = Path(folder, name)
                if stat.S_ISREG(path.stat().st_mode):
                    yield Found.of(root, path)
