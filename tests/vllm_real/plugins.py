"""Plugins of vLLM's own kind: modules of this folder that vLLM calls in each of its processes before it loads a model.

So a test reaches into the processes of real daemons without a line in them that is there for tests.
"""

from __future__ import annotations

from pathlib import Path


def installed(folder: Path, name: str) -> Path:
    """A folder for PYTHONPATH by which vLLM finds ``name``.py of this folder, and calls its ``register``."""
    module = f"cfbus_{name}"
    facts = folder / f"{module}-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0\n")
    (facts / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{module} = {module}:register\n")
    (folder / f"{module}.py").write_text((Path(__file__).parent / f"{name}.py").read_text())
    return folder
