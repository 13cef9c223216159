"""The kernels are compiled for GPUs, which needs none, in a process where they are not interpreted."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="no Triton here")


CASES = (
    "80:linear,3x3-static,3x3-w4a16,codes,group-norm-sums,group-norm",
    "90:3x3,linear-w4,codes-gated,fake,fake-gradients,fake-tokens",
)


def test_kernels_multiply_int8_on_tensor_cores_and_keep_their_sums_in_registers(tmp_path):
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del variables["TRITON_INTERPRET"]
    words = [sys.executable, "-W", "ignore", "-m", "tests.native.cuda.compiled", *CASES]
    run = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = [dict(pair.split("=") for pair in line.split()[2:]) for line in run.stdout.splitlines()]
    assert len(lines) == 12
    products = [line for line in lines if "multiplied" in line]
    assert len(products) == 5
    assert all(int(line["multiplied"]) > 0 for line in products)
    assert all(int(line["stack"]) <= 512 for line in lines)  # bytes of a thread: some addresses, not its sums
    assert all(int(line["shared"]) <= 164 * 1024 for line in lines)  # what a block has on sm_80
