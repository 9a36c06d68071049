"""Ctrl-C at any moment is one line and exit status 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("loaded", ["click.core", "msgspec", "segue.cli.disk"])
def test_while_it_is_being_loaded(tmp_path: Path, loaded: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "segue.cli", "--data", str(tmp_path)]
    with subprocess.Popen([*words, "job", "wait", "1"], stderr=subprocess.PIPE, text=True) as verb:
        assert verb.stderr is not None
        for line in verb.stderr:
            if line.split()[-1] == loaded:
                break
        os.kill(verb.pid, signal.SIGINT)
        said = [line for line in verb.stderr if not line.startswith("import time:")]
    assert (said, verb.returncode) == (["segue: interrupted\n"], 130)


def test_ignored_where_the_shell_says_so(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "segue.cli", "--data", str(tmp_path), "job", "wait", "1"]
    code = "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "verb = subprocess.Popen(sys.argv[1:]); "
    code += "[verb.send_signal(signal.SIGINT) for _ in range(100)]; sys.exit(verb.wait())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
