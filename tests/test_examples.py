"""The CI example, as a job runs it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import PROMPTS, ROOT

SCRIPT = ROOT / "examples" / "ci" / "quantize.sh"


def run(tmp_path, **settings):
    small = {"LIMIT": "2", "STEPS": "2", "PICTURES": "2", "ITERATIONS": "1"}
    files = {"PROMPTS": PROMPTS / "shapes-train.txt", "HELDOUT": PROMPTS / "shapes-heldout.txt"}
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = {**os.environ, **tools, **small, **{k: str(v) for k, v in files.items()}, **settings}
    environment.pop("GITHUB_STEP_SUMMARY", None)
    return subprocess.run(
        [SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_the_ci_script_runs_all_stages_and_ends_as_its_gates_do(tmp_path):
    failed = run(tmp_path, GATES="psnr>=1 ssim>=2")
    assert failed.returncode == 4, failed.stderr
    assert "gate not met: ssim>=2" in failed.stderr
    summary = (tmp_path / "sdquant-summary.md").read_text()
    assert "`psnr>=1` met" in summary
    assert "`ssim>=2` **not met**" in summary
    assert (tmp_path / "sdquant-report.html").stat().st_size > 10_000


def test_the_workflow_calls_the_script():
    workflow = yaml.safe_load((SCRIPT.parent / "github-actions.yml").read_text())
    steps = workflow["jobs"]["quantize"]["steps"]
    (step,) = [step for step in steps if "quantize.sh" in step.get("run", "")]
    assert (ROOT / step["run"]).samefile(SCRIPT)
    assert all((ROOT / step["env"][name]).is_file() for name in ("PROMPTS", "HELDOUT"))
