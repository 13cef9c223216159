"""Objects by path, created once. Local folders and S3 buckets are the same code through obstore."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError, PermissionDeniedError
from obstore.store import LocalStore, ObjectStore, from_url

from ..errors import EnvironmentProblem, UsageProblem


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn the object store's own errors into one line that names the place."""
    try:
        yield
    except (AlreadyExistsError, NotFoundError, FileNotFoundError):
        raise
    except (GenericError, PermissionDeniedError, OSError) as error:
        text = str(error)
        for sign, meaning in (
            ("No space left", "the disk is full"),
            ("Read-only file system", "it is read-only"),
            ("ermission denied", "permission is denied"),
            ("NoSuchBucket", "there is no such bucket"),
        ):
            if sign in text:
                raise EnvironmentProblem(
                    f"{where}: {meaning}; what was stored is intact, run the same command again "
                    f"after mending it, or name another place with --store"
                ) from None
        raise EnvironmentProblem(f"{where}: {text.splitlines()[0]}") from None


class Objects:
    """Bytes under a root, each path written at most once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.local = None if "://" in url else Path(url).absolute()
        if self.local is not None:
            nearest = next(p for p in (self.local, *self.local.parents) if p.exists())
            if not nearest.is_dir():
                raise UsageProblem(f"--store {url}: {nearest} is a file, a store is a folder")

    @cached_property
    def _backend(self) -> ObjectStore:
        """Opened when first written to or read from: looking at an absent store creates nothing."""
        with plain_errors(self.url):
            return from_url(self.url) if self.local is None else LocalStore(prefix=self.local, mkdir=True)

    def _is_absent(self, prefix: str = "") -> bool:
        return self.local is not None and not (self.local / prefix).is_dir()

    def below(self, prefix: str) -> ObjectStore:
        """The same place, seen from a prefix."""
        if self.local is None:
            return from_url(f"{self.url}/{prefix}")
        return LocalStore(prefix=self.local / prefix, mkdir=True)

    def create(self, path: str, data: bytes) -> bool:
        """Store `data` at `path` and sync it; False if something is there already."""
        try:
            with plain_errors(f"{self.url}/{path}"):
                obstore.put(self._backend, path, data, mode="create")
                self._sync(path)
        except AlreadyExistsError:
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """The bytes at `path`, or None."""
        if self._is_absent():
            return None
        try:
            with plain_errors(f"{self.url}/{path}"):
                return bytes(obstore.get(self._backend, path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Path and size of every object below `prefix`."""
        if self._is_absent(prefix):
            return {}
        with plain_errors(f"{self.url}/{prefix}"):
            listed = [item for page in obstore.list(self._backend, prefix=prefix) for item in page]
        return {item["path"]: item["size"] for item in listed}

    def delete(self, paths: list[str]) -> None:
        with plain_errors(self.url):
            obstore.delete(self._backend, paths)

    def _sync(self, path: str) -> None:
        """Local files: make the file and its name survive a power loss (obstore syncs nothing)."""
        if self.local is None:
            return
        for target in (self.local / path, (self.local / path).parent):
            handle = os.open(target, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
