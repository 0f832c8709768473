"""Every key of CaptionFlow 0.5 (and its older names), and what becomes of it here.

The converter (`cfbus.tools.captionflow`) and the table in `docs/from-captionflow.md` are both made from these rows, so
that they say the same. A row says nothing about how a value is read; that is the converter's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of a key."""

    SAME = "same"
    """The same value has the same meaning."""
    MAPPED = "mapped"
    """It has another name or another value here."""
    OBSOLETE = "obsolete"
    """There is nothing to set here, and nothing is missing."""
    LATER = "not yet"
    """What it asks for is not here yet."""


@dataclass(frozen=True, slots=True)
class Row:
    """One key, or with ``*`` all others of its section; ``ours`` is the key here, or empty."""

    key: str
    fate: Fate
    ours: str
    why: str


_KEPT: dict[str, tuple[str, str]] = {
    "orchestrator.host": ("broker.host", "Left out, it was 0.0.0.0 there; here it is 127.0.0.1."),
    "orchestrator.port": ("broker.port", "Left out, it was 8765 there; here it is 7710."),
    "orchestrator.chunk_size": ("broker.chunk_size", "The most items of one lease; most leases are smaller."),
    "orchestrator.dataset.name": ("dataset.name", "It is in every row of the tables."),
    "orchestrator.storage.data_dir": (
        "storage.data_dir",
        "Carried over if nothing is in that folder yet: a store is of one kind, and what is there stays as it is.",
    ),
    "orchestrator.vllm.model": ("vllm.model", ""),
    "orchestrator.vllm.revision": ("vllm.revision", ""),
    "orchestrator.vllm.dtype": (
        "vllm.dtype",
        "Left out, it was float16 there; here it is what the model was made with.",
    ),
    "orchestrator.vllm.tensor_parallel_size": ("vllm.tensor_parallel_size", ""),
    "orchestrator.vllm.gpu_memory_utilization": ("vllm.gpu_memory_utilization", ""),
    "orchestrator.vllm.max_model_len": ("vllm.max_model_len", "Left out, it was 16384 there; here what the model can."),
    "orchestrator.vllm.max_num_seqs": ("vllm.max_num_seqs", ""),
    "orchestrator.vllm.enforce_eager": (
        "vllm.enforce_eager",
        "Left out, it was true there; false, as here, is faster.",
    ),
    "orchestrator.vllm.limit_mm_per_prompt": ("vllm.limit_mm_per_prompt", ""),
    "orchestrator.vllm.trust_remote_code": (
        "vllm.trust_remote_code",
        "There it was true, whatever was said; here the code that comes with a model is not run unless you say so.",
    ),
    "orchestrator.vllm.sampling.temperature": ("vllm.sampling.temperature", ""),
    "orchestrator.vllm.sampling.top_p": ("vllm.sampling.top_p", ""),
    "orchestrator.vllm.sampling.top_k": ("vllm.sampling.top_k", ""),
    "orchestrator.vllm.sampling.min_p": ("vllm.sampling.min_p", ""),
    "orchestrator.vllm.sampling.max_tokens": ("vllm.sampling.max_tokens", ""),
    "orchestrator.vllm.sampling.repetition_penalty": ("vllm.sampling.repetition_penalty", ""),
    "orchestrator.vllm.sampling.presence_penalty": ("vllm.sampling.presence_penalty", ""),
    "orchestrator.vllm.sampling.frequency_penalty": ("vllm.sampling.frequency_penalty", ""),
    "orchestrator.vllm.sampling.stop": (
        "vllm.sampling.stop",
        "Left out, three texts ended a caption there; here the model's own end does.",
    ),
    "orchestrator.vllm.sampling.seed": ("vllm.sampling.seed", ""),
    "orchestrator.vllm.sampling.skip_special_tokens": ("vllm.sampling.skip_special_tokens", ""),
    "orchestrator.vllm.inference_prompts": (
        "vllm.inference_prompts",
        "Each prompt fills a slot of its own (caption, caption_2, …) instead of one list; captions.slots has names for"
        " them.",
    ),
    "orchestrator.vllm.*": ("vllm.*", "Any other argument of vLLM's engine is passed on as written."),
    "worker.name": ("worker.name", "Left out, it was 'worker' there; here it is the machine's name."),
    "worker.gpu_id": ("worker.gpu_id", "One process for each GPU, as there."),
}

_BATCH = (
    "worker.concurrency",
    "No image waits for a batch here: the number says how many are in flight. It is carried over where it is above the"
    " default.",
)
HUB_KEYS = {
    "dataset_config": "hub_config", "dataset_split": "split", "split": "split", "dataset_image_column": "image_column",
    "image_column": "image_column", "dataset_url_column": "url_column", "url_column": "url_column",
}  # fmt: skip
"""Keys of a dataset that count there, and here, only for those of the hub."""
_MAPPED: dict[str, tuple[str, str]] = {
    "orchestrator.dataset.processor_type": ("dataset.source", "See the kinds of datasets."),
    "orchestrator.dataset.type": ("dataset.source", "The older name of processor_type."),
    "orchestrator.dataset.dataset_path": (
        "dataset.paths",
        "Workers read the images themselves, so each must see them under the path in its configuration.",
    ),
    "orchestrator.dataset.path": ("dataset.paths", "The older name of dataset_path."),
    **{
        f"orchestrator.dataset.{theirs}": (f"dataset.{ours}", "For datasets of the Hugging Face hub.")
        for theirs, ours in HUB_KEYS.items()
    },
    "orchestrator.dataset.follow_symlinks": ("dataset.follow_links", ""),
    "orchestrator.vllm.batch_size": _BATCH,
    "orchestrator.vllm.disable_mm_preprocessor_cache": (
        "vllm.mm_processor_cache_gb",
        "True becomes 0; false is the default.",
    ),
    "orchestrator.vllm.stages": (
        "captions.stages",
        "Each prompt of a stage becomes a slot of captions.slots with a name: the stage's output_field, numbered where"
        " there are several. {STAGE_output_0} becomes the name of that slot. A stage with another model is refused.",
    ),
    "worker.server": ("worker.server", "ws://HOST:PORT and wss://HOST:PORT become tcp://HOST:PORT."),
    "worker.batch_size": _BATCH,
    "worker.model": ("vllm.model", "As --model."),
    "worker.precision": ("vllm.dtype", "As --precision."),
    "monitor.server": ("admin.server", "Statistics have a port of their own: admin.stats."),
    "admin.server": ("admin.server", "As worker.server."),
}

_NOTHING: tuple[tuple[Fate, str, str], ...] = (
    (
        Fate.OBSOLETE,
        "orchestrator.ssl.cert orchestrator.ssl.key worker.verify_ssl monitor.verify_ssl admin.verify_ssl",
        "Every connection is encrypted and both ends are known by their keys; there is no other mode.",
    ),
    (
        Fate.OBSOLETE,
        "orchestrator.auth.worker_tokens orchestrator.auth.monitor_tokens orchestrator.auth.admin_tokens worker.token"
        " monitor.token admin.token",
        "Keys take the place of tokens: everybody makes a pair (cfbus keygen), shows the public half, and keeps the"
        " secret one. No token is carried over or shown.",
    ),
    (
        Fate.OBSOLETE,
        "orchestrator.chunks_per_request orchestrator.chunk_buffer_multiplier orchestrator.min_chunk_buffer",
        "Leases are sized by how fast a worker is; they shrink towards the end.",
    ),
    (
        Fate.OBSOLETE,
        "orchestrator.storage.checkpoint_dir orchestrator.storage.checkpoint_interval"
        " orchestrator.storage.caption_buffer_size orchestrator.storage.job_buffer_size"
        " orchestrator.storage.contributor_buffer_size",
        "A caption is on the disk before it is acknowledged: there is no buffer to lose, and no checkpoint.",
    ),
    (
        Fate.OBSOLETE,
        "orchestrator.websocket_ping_interval orchestrator.websocket_ping_timeout"
        " orchestrator.retry_backoff_initial_seconds orchestrator.retry_backoff_max_seconds"
        " orchestrator.backpressure_threshold",
        "Heartbeats, second attempts and how much is on its way are the protocol's; nothing needs to be set.",
    ),
    (Fate.OBSOLETE, "orchestrator.dataset.version", "Say it in dataset.name, if versions are to be told apart."),
    (Fate.OBSOLETE, "orchestrator.dataset.recursive", "Folders are searched with all folders in them, always."),
    (
        Fate.OBSOLETE,
        "orchestrator.dataset.http_bind_address orchestrator.dataset.public_address orchestrator.dataset.http_port",
        "Workers read the images themselves; nothing is served over HTTP.",
    ),
    (Fate.OBSOLETE, "orchestrator.dataset.decode_images", "Pictures are decoded on the worker, always."),
    (
        Fate.OBSOLETE,
        "orchestrator.dataset.mock_results orchestrator.vllm.mock_results",
        "For a run without a model: captions.engine: scripted.",
    ),
    (
        Fate.OBSOLETE,
        "orchestrator.dataset.remote_range_reads orchestrator.dataset.remote_range_timeout"
        " orchestrator.dataset.remote_range_retries orchestrator.cache_dir"
        " orchestrator.shard_cache_gb orchestrator.buffer_size orchestrator.max_file_size"
        " orchestrator.webshart_parallel_downloads orchestrator.webshart_chunk_size_mb"
        " orchestrator.webshart_prefetch_shards orchestrator.webshart_cache_retry_interval",
        "Tars behind addresses are read by ranges and never kept as files; dataset.downloads has what can be set.",
    ),
    (Fate.OBSOLETE, "orchestrator.dataset.metadata_path", "An index that lies beside a tar is found."),
    (Fate.LATER, "orchestrator.vllm.sampling.*", "There is no such setting of sampling here yet."),
    (
        Fate.LATER,
        "orchestrator.vllm.retry_prompt orchestrator.vllm.retry_sampling orchestrator.vllm.retry_without_image"
        " orchestrator.vllm.refusal_markers orchestrator.vllm.output_processing orchestrator.vllm.response_format"
        " orchestrator.vllm.retry_response_format worker.output_processing",
        "Checks of what a model answered, and second attempts with another prompt, are not here yet.",
    ),
    (Fate.OBSOLETE, "worker.vllm worker.type", "captions.engine says which engine writes."),
    (
        Fate.LATER,
        "worker.openai_compatible",
        "Workers that ask a service over HTTP are not here yet; nothing of this section is carried over.",
    ),
    (
        Fate.OBSOLETE,
        "worker.when_finished worker.post_exec_hook",
        "A worker stays until it is stopped. cfbus run ends when all is done, and your shell goes on from there.",
    ),
    (
        Fate.OBSOLETE,
        "worker.local_storage_path",
        "Name the folder as dataset.paths in the configuration of that worker.",
    ),
    (
        Fate.OBSOLETE,
        "worker.readahead_size worker.inference_queue_size worker.batch_image_processing",
        "A worker reads and decodes ahead of its engine, as much as worker.concurrency allows.",
    ),
    (Fate.OBSOLETE, "worker.job_mode", "Every worker takes leases."),
    (Fate.LATER, "worker.data_source worker.source_type", "Workers that only bring images are not here yet."),
    (
        Fate.LATER,
        "monitor.refresh_rate monitor.show_contributors monitor.show_quality_metrics monitor.max_activity_items"
        " monitor.show_chunk_progress monitor.show_worker_queues monitor.show_throughput_graph",
        "There is no live monitor yet; cfbus-admin status shows how it goes.",
    ),
)


def _rows() -> Iterator[Row]:
    for key, (ours, why) in _KEPT.items():
        yield Row(key, Fate.SAME, ours, why)
    for key, (ours, why) in _MAPPED.items():
        yield Row(key, Fate.MAPPED, ours, why)
    for fate, keys, why in _NOTHING:
        yield from (Row(key, fate, "", why) for key in keys.split())


COMPONENTS = ("orchestrator", "worker", "monitor", "admin")

ROWS = {row.key: row for row in sorted(_rows(), key=lambda row: COMPONENTS.index(row.key.partition(".")[0]))}

SOURCES = {
    "local_filesystem": ("folder", ""),
    "local": ("folder", ""),
    "webdataset": ("webdataset", "*.tar"),
    "huggingface_datasets": ("huggingface", ""),
    "huggingface": ("huggingface", ""),
    "urls": ("urls", ""),
}
"""CaptionFlow's kinds of datasets: the source here, and what its path is joined with."""


def row_of(path: tuple[str, ...]) -> Row | None:
    """The row of a key, be it that of all others in its section; ``inference`` is a newer word for ``vllm``."""
    if path[:2] == ("orchestrator", "inference"):
        path = ("orchestrator", "vllm", *path[2:])
    exact = ROWS.get(".".join(path))
    return exact or (None if is_section(path) else ROWS.get(".".join((*path[:-1], "*"))))


def is_section(path: tuple[str, ...]) -> bool:
    """Whether there are rows of keys below this one."""
    return any(True for _ in keys_below(path))


def keys_below(path: tuple[str, ...]) -> Iterator[str]:
    """The names that have a row right below ``path``, or rows below them."""
    if path[:2] == ("orchestrator", "inference"):
        path = ("orchestrator", "vllm", *path[2:])
    prefix = ".".join(path) + "."
    yield from dict.fromkeys(key.removeprefix(prefix).partition(".")[0] for key in ROWS if key.startswith(prefix))
