"""The CI example, as a job runs it."""

import json
import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sdquant_cli.cli import app
from sdquant_cli.version import __version__
from tests.conftest import PROMPTS, ROOT

SCRIPT = ROOT / "examples" / "ci" / "quantize.sh"


SHIM = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    there.sendall((json.dumps([sys.argv[1:], os.environ["SDQUANT_STORE"]]) + "\\n").encode())
    code, out, err = json.loads(there.makefile().readline())
sys.stdout.write(out), sys.stderr.write(err), sys.exit(code)
"""


class Commands(socketserver.StreamRequestHandler):
    """Runs in this process what a script calls: seven processes would import torch seven times."""

    def handle(self):
        words, store = json.loads(self.rfile.readline())
        result = CliRunner().invoke(app, words, env={"SDQUANT_STORE": store})
        answer = json.dumps([result.exit_code, result.stdout, result.stderr])
        self.wfile.write((answer + "\n").encode())


@pytest.fixture
def sdquant_on_path(tmp_path):
    """A folder with an `sdquant` that hands its words to this process."""
    address = str(tmp_path / "commands.sock")
    shim = tmp_path / "bin" / "sdquant"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(python=sys.executable, address=address))
    shim.chmod(0o755)
    with socketserver.UnixStreamServer(address, Commands) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield shim.parent
        server.shutdown()


def run(tmp_path, folder, **settings):
    small = {"LIMIT": "2", "STEPS": "2", "PICTURES": "2", "ITERATIONS": "1"}
    files = {"PROMPTS": PROMPTS / "shapes-train.txt", "HELDOUT": PROMPTS / "shapes-heldout.txt"}
    tools = {"PATH": f"{folder}:{os.environ['PATH']}"}
    environment = {**os.environ, **tools, **small, **{k: str(v) for k, v in files.items()}, **settings}
    environment.pop("GITHUB_STEP_SUMMARY", None)
    return subprocess.run(
        [SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_the_ci_script_runs_all_stages_and_ends_as_its_gates_do(tmp_path, sdquant_on_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = run(tmp_path, sdquant_on_path, GATES="psnr>=1 ssim>=2")
    assert failed.returncode == 4, failed.stderr
    assert "gate not met: ssim>=2" in failed.stderr
    summary = (tmp_path / "sdquant-summary.md").read_text()
    assert "`psnr>=1` met" in summary
    assert "`ssim>=2` **not met**" in summary
    assert (tmp_path / "sdquant-report.html").stat().st_size > 10_000


def test_the_installed_command_runs():
    command = [Path(sys.executable).with_name("sdquant"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_the_workflow_calls_the_script():
    workflow = yaml.safe_load((SCRIPT.parent / "github-actions.yml").read_text())
    steps = workflow["jobs"]["quantize"]["steps"]
    (step,) = [step for step in steps if "quantize.sh" in step.get("run", "")]
    assert (ROOT / step["run"]).samefile(SCRIPT)
    assert all((ROOT / step["env"][name]).is_file() for name in ("PROMPTS", "HELDOUT"))
