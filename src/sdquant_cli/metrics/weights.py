"""Weight files of metric networks: one flat folder, each file checked by its sha256.

The libraries that read these files accept a wrong one silently, so every file is checked here first.
Nothing is fetched unless asked for.
"""

import hashlib
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import EnvironmentProblem, UsageProblem
from ..events import Events
from ..paths import cache_folder, partial_file, remove_partial_files

_CLIP = "https://huggingface.co/openai/clip-vit-base-patch32/resolve/3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
_CLIP_LARGE = (
    "https://huggingface.co/openai/clip-vit-large-patch14/resolve/32bd64288804d66eefd0ccbe215aa642df71cc41"
)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WeightFile:
    """A published file: its sha256 and where it is published."""

    sha256: str
    url: str


WEIGHT_FILES: dict[str, WeightFile] = {
    "inception-2015-12-05.pt": WeightFile(
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    ),
    "pt_inception-2015-12-05-6726825d.pth": WeightFile(
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
    "alexnet-owt-7be5be79.pth": WeightFile(
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    "LPIPS_v0.1_alex-df73285e.pth": WeightFile(
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
    ),
    "clip-vit-base-patch32.bin": WeightFile(
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f", f"{_CLIP}/pytorch_model.bin"
    ),
    "clip-vit-base-patch32-tokenizer.json": WeightFile(
        "b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842", f"{_CLIP}/tokenizer.json"
    ),
    "clip-vit-large-patch14.bin": WeightFile(
        "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3", f"{_CLIP_LARGE}/pytorch_model.bin"
    ),
}


class FileState(StrEnum):
    """The state of a weight file on this machine."""

    INTACT = "intact"
    MISSING = "missing"
    WRONG = "wrong"


def default_folder() -> Path:
    """Return the folder used unless another is named, usually `~/.cache/sdquant/weights`."""
    return cache_folder("weights")


class Weights:
    """A folder of weight files; each file is hashed once, when it is first asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageProblem(f"--weights-dir {self.folder}: is a file, expected a folder")
        self._digests: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """Return where a file belongs."""
        return self.folder / name

    def digest(self, name: str) -> str | None:
        """Return the sha256 of a file in the folder; None if it is not there."""
        if name not in self._digests and self.path(name).is_file():
            with self.path(name).open("rb") as file:
                self._digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests.get(name)

    def state(self, name: str) -> FileState:
        """Return whether a file is intact, missing or wrong."""
        digest = self.digest(name)
        if digest is None:
            return FileState.MISSING
        return FileState.INTACT if digest == WEIGHT_FILES[name].sha256 else FileState.WRONG

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return the files that are not there; raise EnvironmentProblem for one with another sha256."""
        absent = []
        for name in names:
            state = self.state(name)
            if state is FileState.WRONG:
                expected = WEIGHT_FILES[name].sha256
                raise EnvironmentProblem(
                    f"{self.path(name)}: sha256 is {self.digest(name)}, expected {expected}; "
                    f"remove it and run `sdquant doctor --download`, or copy the right file there"
                )
            if state is FileState.MISSING:
                absent.append(name)
        return absent

    def download(self, names: Iterable[str], events: Events) -> None:
        """Fetch the missing files; a file that arrives with another sha256 is not kept."""
        for name in self.missing(names):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partial_files(self.path(name))
            with partial_file(self.path(name)) as partial:
                digest = _fetch(WEIGHT_FILES[name].url, partial, name, events)
                if digest != WEIGHT_FILES[name].sha256:
                    raise EnvironmentProblem(
                        f"{WEIGHT_FILES[name].url}: arrived with sha256 {digest}, expected "
                        f"{WEIGHT_FILES[name].sha256}; nothing was kept"
                    )


def _fetch(url: str, target: Path, name: str, events: Events) -> str:
    """Download a file and return its sha256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as source, target.open("wb") as file:
            blocks = -(-int(source.headers.get("Content-Length") or 0) // _BLOCK)
            with events.task(f"fetching {name}", blocks, "MiB") as task:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
                    task.advance()
    except OSError as error:
        raise EnvironmentProblem(f"{url}: cannot be fetched ({getattr(error, 'reason', error)})") from None
    return digest.hexdigest()
