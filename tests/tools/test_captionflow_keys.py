"""cfbus.tools.captionflow_keys: all keys that people come with are there, and on the page; each fits what is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfbus.config import SCHEMA
from cfbus.tools.captionflow_keys import ROWS, SOURCES, Fate, is_section, keys_below, row_of

PAGE = Path(__file__).parents[2] / "docs" / "from-captionflow.md"

ASKED_FOR = """
host port ssl.cert ssl.key dataset.processor_type dataset.dataset_path dataset.type dataset.path dataset.name
vllm.model vllm.batch_size vllm.sampling.temperature vllm.inference_prompts storage.data_dir storage.checkpoint_dir
storage.caption_buffer_size storage.checkpoint_interval chunk_size chunks_per_request chunk_buffer_multiplier
min_chunk_buffer auth.worker_tokens auth.monitor_tokens auth.admin_tokens
"""
OF_WORKERS = "server token name gpu_id batch_size model precision vllm verify_ssl readahead_size inference_queue_size"
OF_MONITORS = """
server token refresh_rate show_contributors show_quality_metrics max_activity_items show_chunk_progress
show_worker_queues show_throughput_graph
"""


@pytest.mark.parametrize(
    ("component", "keys"), [("orchestrator", ASKED_FOR), ("worker", OF_WORKERS), ("monitor", OF_MONITORS)]
)
def test_the_keys_that_people_come_with_are_there(component: str, keys: str) -> None:
    assert [key for key in keys.split() if f"{component}.{key}" not in ROWS] == []


def test_every_row_fits_what_is_here() -> None:
    known = {".".join(path) for path in SCHEMA.known_paths()} | {"vllm.*", "vllm.mm_processor_cache_gb"}
    for row in ROWS.values():
        assert bool(row.ours) == (row.fate in (Fate.SAME, Fate.MAPPED)), row
        assert not row.ours or row.ours in known, row
        assert row.why or row.fate is Fate.SAME or row.key.endswith("follow_symlinks"), row


def test_no_row_hides_another() -> None:
    assert [key for key in ROWS if is_section(tuple(key.split(".")))] == []


def test_the_page_has_every_key_and_kind() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [key.partition(".")[2] for key in ROWS] + list(SOURCES)
    assert [name for name in names if f"`{name}`" not in page] == []


def test_rows_are_found() -> None:
    assert row_of(("orchestrator", "vllm", "model")) is row_of(("orchestrator", "inference", "model"))
    other = row_of(("orchestrator", "vllm", "kv_cache_dtype"))
    assert other is not None
    assert other.key == "orchestrator.vllm.*"
    assert row_of(("orchestrator", "vllm", "sampling")) is None
    assert row_of(("orchestrator", "nonsense")) is None
    assert set(keys_below(("orchestrator", "ssl"))) == {"cert", "key"}
    assert "sampling" in keys_below(("orchestrator", "inference"))
