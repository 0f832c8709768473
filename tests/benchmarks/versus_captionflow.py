"""CaptionFlow as the other side of the comparison: its environment, its configuration, its processes.

It is installed from the package registry and run as its documentation says; nothing of it is changed. In place of
`vllm` and `transformers` it finds the stub. What is set otherwise than it comes: chunks of 100 images, so that two
workers can share 2,000; with tars more chunks are held ready than by default, so that no worker waits for them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml
from benchmarks import captionflow_rows, stub_model
from benchmarks.running import BenchError
from benchmarks.versus_figures import Case
from benchmarks.versus_setup import Start, listens
from processes.support import free_port

VERSION = "0.5.7"
NAME = f"CaptionFlow {VERSION}"
CHUNK_ITEMS = 100
READY_CHUNKS = 40
INSTALL_SECONDS = 900
_PYTHONS = ("python3.12", "python3.13")
_LEASED = re.compile(r"^(\S+ \S+) - \S+ - INFO - Received \d+ work units", re.MULTILINE)
_STUBS = {
    "vllm/__init__.py": "from stub_model import LLM, SamplingParams\n",
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": "from stub_model import EngineArgs\n",
    "transformers/__init__.py": "from stub_model import AutoProcessor, AutoTokenizer\n",
}


def environment(out: Path) -> Path:
    """The environment with this version in it, made when it is not there; takes a minute and 800 MB."""
    path = out / f"captionflow-{VERSION}"
    done = path / "complete"
    if done.exists():
        return path
    python = next(filter(None, map(_works, [*_PYTHONS, *_elsewhere()])), None)
    if python is None:
        raise BenchError(f"{NAME} wants Python 3.12 or 3.13, and none was found ({', '.join(_PYTHONS)})")
    sys.stdout.write(f"Installing {NAME} into {path.name} (once; about a minute)\n")
    sys.stdout.flush()
    subprocess.run([python, "-m", "venv", "--clear", str(path)], check=True, timeout=INSTALL_SECONDS)
    pip = [str(path / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*pip, f"caption-flow=={VERSION}"], check=False, timeout=INSTALL_SECONDS, capture_output=True, text=True
    )
    if installed.returncode:
        raise BenchError(f"{NAME} could not be installed: {installed.stderr.strip().splitlines()[-1]}")
    done.touch()
    return path


def _elsewhere() -> list[str]:
    """Pythons that pyenv keeps, whichever of them is chosen now."""
    return sorted(map(str, Path.home().glob(".pyenv/versions/3.1[23].*/bin/python")))


def _works(python: str) -> str | None:
    try:
        done = subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    except OSError:
        return None
    return python if done.returncode == 0 else None


def python_version(path: Path) -> str:
    """Of the Python in the environment."""
    said = subprocess.run([str(path / "bin" / "python"), "-V"], capture_output=True, text=True, check=True).stdout
    return said.split()[-1]


def index(path: Path, tars: Path) -> None:
    """The index of each tar beside it, without which it reads none."""
    words = ["extract-metadata", "--source", str(tars), "--destination", str(tars)]
    command = [str(path / "bin" / "webshart"), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class CaptionFlow:
    """See ``Setup``."""

    side = NAME

    def __init__(
        self, path: Path, data: Path, folder: Path, case: Case, stub: Mapping[str, str], checkpoint: int
    ) -> None:
        self.folder = folder
        self._path = path
        self._port, images = free_port(), free_port()
        folder.mkdir(parents=True)
        stubs = folder / "stubs"
        for name, text in _STUBS.items():
            (stubs / name).parent.mkdir(parents=True, exist_ok=True)
            (stubs / name).write_text(text)
        shutil.copy(stub_model.__file__, stubs)
        self._flags = self._certificate() if case.encrypted else ["--no-ssl"]
        (folder / "orchestrator.yaml").write_text(
            yaml.safe_dump({"orchestrator": self._configuration(case, data, images, checkpoint)})
        )
        server = {
            "server": f"{'wss' if case.encrypted else 'ws'}://127.0.0.1:{self._port}", "token": "a-worker",
            "name": "worker", "vllm": True, "verify_ssl": False,
        }  # fmt: skip
        (folder / "worker.yaml").write_text(yaml.safe_dump({"worker": server}))
        self.servers = {"orchestrator": self._start("orchestrator", self._flags, {})}
        self.workers = {
            f"worker {n}": self._start(
                "worker", [], {**stub, "PYTHONPATH": str(stubs), "CAPTIONFLOW_LOG_DIR": str(folder / f"log-{n}")}
            )
            for n in range(case.workers)
        }
        self._seen = folder / "rows.txt"
        self._captions = folder / "data" / "captions.lance"
        self._reader = self._read()

    def _configuration(self, case: Case, data: Path, port: int, checkpoint: int) -> dict[str, object]:
        local = {"processor_type": "local_filesystem", "http_port": port, "http_bind_address": "127.0.0.1"}
        kind = local if case.source == "folder" else {"processor_type": "webdataset"}
        more = {} if case.source == "folder" else {"min_chunk_buffer": READY_CHUNKS}
        prompts = [f"Describe this image, {n}." for n in range(case.prompts)]
        return {
            "host": "127.0.0.1", "port": self._port, "chunk_size": CHUNK_ITEMS, **more,
            "dataset": {**kind, "dataset_path": str(data)},
            "vllm": {"model": "stub", "batch_size": 8, "inference_prompts": prompts},
            "storage": {"data_dir": "data", "checkpoint_dir": "checkpoints", "checkpoint_interval": checkpoint},
            "auth": {"worker_tokens": [{"token": "a-worker", "name": "worker"}]},
        }  # fmt: skip

    def _certificate(self) -> list[str]:
        self._call("caption-flow", "generate-cert", "--self-signed", "--domain", "localhost", "--output-dir", "certs")
        found = {each.name: each for each in (self.folder / "certs").rglob("*.pem")}
        key = next(each for name, each in found.items() if "key" in name)
        cert = found.get("fullchain.pem") or next(each for name, each in found.items() if "key" not in name)
        return ["--cert", str(cert), "--key", str(key)]

    def _start(self, component: str, flags: list[str], environ: Mapping[str, str]) -> Start:
        config = str(self.folder / f"{component}.yaml")
        command = [str(self._path / "bin" / "caption-flow"), component, "--config", config, "--vllm", *flags]
        logs = {"CAPTIONFLOW_LOG_DIR": str(self.folder / "log"), "TZ": "UTC"}
        return Start(command, {**logs, **environ})

    def _read(self) -> subprocess.Popen[bytes]:
        python, captions = str(self._path / "bin" / "python"), str(self._captions)
        command = [python, captionflow_rows.__file__, "watch", captions, str(self._seen)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    def _call(self, program: str, *words: str) -> str:
        """What a program of its environment says."""
        environ = {**os.environ, "CAPTIONFLOW_LOG_DIR": str(self.folder / "log-calls")}
        command = [str(self._path / "bin" / program), *words]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{program} {words[0]} of {NAME} failed: {done.stderr[-500:]}")
        return done.stdout

    def ready(self) -> bool:
        return listens(self._port)

    def leased_at(self) -> float | None:
        times = []
        for log in self.folder.glob("log-[0-9]*/*.log"):
            found = _LEASED.search(log.read_text(errors="replace"))
            if found:
                times.append(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC).timestamp())
        return min(times, default=None)

    def rows(self) -> int:
        if self._reader.poll() is not None:
            raise BenchError(f"the reader of {NAME}'s files ended with exit code {self._reader.returncode}")
        lines = self._seen.read_text().splitlines() if self._seen.exists() else []
        return int(lines[-1].split()[1]) if lines else 0

    def keys(self) -> list[str]:
        said = self._call("python", captionflow_rows.__file__, "keys", str(self._captions))
        found: list[str] = json.loads(said.splitlines()[-1])
        return found

    def size(self) -> int:
        return sum(each.stat().st_size for each in self._captions.rglob("*") if each.is_file())

    def mend(self) -> str:
        try:
            self._call("caption-flow", "scan-chunks", "--data-dir", "data", "--checkpoint-dir", "checkpoints", "--fix")
        except BenchError:
            # Only what it remembers of chunks says that they are done: without that, what is in no row is done again.
            (self.folder / "checkpoints" / "chunks.json").unlink(missing_ok=True)
            return "`scan-chunks --fix`, which ended with an error; removed `chunks.json`"
        return "`scan-chunks --fix`"

    def close(self) -> None:
        self._reader.send_signal(signal.SIGKILL)
        self._reader.wait()
