"""A few faults of each kind; the long run is `python -m tests.chaos --minutes 30`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_run_comes_through_chaos(tmp_path: Path) -> None:
    words = ["--minutes", "4", "--seed", "3", "--iterations", "40", "--gap", "2", "12", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "tests.chaos", *words]
    ran = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((tmp_path / "chaos.json").read_text())
    assert summary["faults"] >= 5 and all(fault["lost_s"] is not None for fault in summary["each"])
    assert "| the driver is killed (kill -9) |" in ran.stdout
