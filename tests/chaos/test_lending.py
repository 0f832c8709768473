"""The whole story of a contributor on two networks; see ``lending``."""

from __future__ import annotations

import subprocess
from pathlib import Path

from chaos import apart, lending
from processes.asking import needs


def test_invited_joined_at_work_suspended_resumed_revoked(tmp_path: Path) -> None:
    if apart.missing():
        needs(apart.missing())
    command = apart.command(Path(lending.__file__), [str(tmp_path)])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "told to the end" in done.stdout
