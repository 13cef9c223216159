"""What tests share: stores in temporary folders, and the command line run in this process."""

import gc
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: one thread for each of the test processes
os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: a CPU runs its kernels

import pytest
from hypothesis import settings
from typer.testing import CliRunner

from sdquant_cli.cli import app
from sdquant_cli.cli.execute import quiet_libraries
from sdquant_cli.store import Store

quiet_libraries()  # before a test imports them: their bars are no part of what a command prints
gc.set_threshold(50_000, 20, 100)  # imports make much that stays
settings.register_profile("default", deadline=None)  # the first example pays for imports
settings.register_profile("few", deadline=None, max_examples=25)  # where each is slow: .ci/run
settings.load_profile("default")

SMALLER = {  # folder -> options, by name
    "sd-v1-4/two-blocks": {
        "unet": {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (8, 16),
        },
    },
    "sdxl/distilled": {  # as SSD-1B: attention of other depths on the way up, none in the middle
        "unet": {
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": (0, (1,), (2,)),
            "reverse_transformer_layers_per_block": ((2, 1), (1, 1), 1),
        },
    },
    "sdxl/embedded-guidance": {"unet": {"time_cond_proj_dim": 8}},
    "sdxl/other-width": {  # diffusers tells the text encoders of a single file apart by their widths
        "unet": {"cross_attention_dim": 40},
        "text_encoder_2": {"hidden_size": 24, "num_attention_heads": 2},
    },
}
ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "examples" / "prompts"


@dataclass(frozen=True)
class Sdquant:
    """The command line on one store."""

    store: Path

    def __call__(self, *words: str, code: int = 0):
        """Run a command; fails unless it exits with `code`, or if it prints a traceback."""
        return self.without_store(*words, "--store", self.store, code=code)

    def without_store(self, *words: object, code: int = 0):
        """Run a command that takes no store, likewise."""
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result

    def opened(self) -> Store:
        return Store(str(self.store))

    def workspace(self):
        from sdquant_cli.artifacts.workspace import Workspace

        return Workspace(self.opened())


_modules_frozen = 0


def pytest_runtest_setup() -> None:
    """Keep what imports have made out of garbage collections, each of which would look all through it."""
    global _modules_frozen  # noqa: PLW0603
    if len(sys.modules) > _modules_frozen + 100:
        gc.collect()
        gc.freeze()
        _modules_frozen = len(sys.modules)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries in C++ report leaks at exit


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks():
    """Files are checked and not flushed when they are synced: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_metric_weights(tmp_path_factory):
    """Whatever weights this user has are left out: results of tests do not depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDQUANT_WEIGHTS", str(tmp_path_factory.mktemp("no-weights")))
        yield


@pytest.fixture
def sdquant(tmp_path: Path) -> Sdquant:
    return Sdquant(tmp_path / "store")


@pytest.fixture(scope="session")
def embedded_unet():
    from sdquant_cli.models.load import find_model

    return find_model("shapes").denoiser()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folders of tiny pipelines with random weights, by name; made once."""
    from tools.random_models.make import make

    root = tmp_path_factory.mktemp("tiny")
    return cache(lambda name: make(name.partition("/")[0], root / name, tiny=True, changes=SMALLER.get(name)))
