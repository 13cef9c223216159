"""Kernels for CUDA, interpreted on the CPU."""

import pytest

from sdquant_cli.native import cuda


@pytest.fixture
def interpreted(monkeypatch):
    """Layers, blocks and networks compute as they do on CUDA, in few programs."""
    products = pytest.importorskip("sdquant_cli.runtime.cuda.products", reason="no Triton here")
    row_codes = pytest.importorskip("sdquant_cli.runtime.cuda.row_codes", reason="no Triton here")
    monkeypatch.setattr(products, "tile_of", lambda *shape: tuple(map(tile, shape[:2])))
    monkeypatch.setattr(row_codes, "PROGRAM", 32768)
    monkeypatch.setattr(cuda, "interpreted", True)


def tile(count):
    """A power of two that holds as many, if 128 do."""
    return min(max(16, 1 << (count - 1).bit_length()), 128)
