"""The tables that people read: names, types, order and meaning of their columns.

The one place for all four; ``docs/formats.md`` takes its tables from ``DESCRIPTIONS``. Knows nothing of
how rows are made. Invariant: a column that was once here keeps its name and type; columns that are always
null today are here from the first day, so that old and new files read as one table.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

HASH_BYTES = 32
WORDS = pa.dictionary(pa.int32(), pa.string())
TIME = pa.timestamp("us", tz="UTC")

_IDENTITY: tuple[tuple[str, pa.DataType, str], ...] = (
    ("job_id", WORDS, "The lease under which the row came: shard, item range, pass and number of the lease."),
    ("dataset", WORDS, "The dataset that the store holds."),
    ("shard", WORDS, "The name of the shard that the item is in."),
    ("item_key", pa.string(), "The item's key, as its source names it."),
)
_CONTRIBUTOR = ("contributor_id", WORDS, "Who is credited.")
_TIME = ("timestamp", TIME, "When the broker received the result.")
_INDEX = ("item_index", pa.int64(), "The item's place in its shard, from 0.")
_REVISION = ("revision", pa.int32(), "The number of the pass; of rows for the same item and slot the highest counts.")
_COMMIT = ("commit_seq", pa.int64(), "The position at which the row became durable.")
_KEY = ("key", WORDS, "The fingerprint of the key that sent the row.")
_LEASE = ("lease", WORDS, "The random id of the lease.")
_FILENAME = ("filename", pa.string(), "The last part of the item's key.")

_CAPTIONS: tuple[tuple[str, pa.DataType, str], ...] = (
    *_IDENTITY,
    ("caption", pa.string(), "What was written, unedited."),
    _CONTRIBUTOR,
    _TIME,
    ("quality_score", pa.float64(), "Null until captions are scored."),
    _INDEX,
    ("slot", WORDS, "Which of the item's captions this is."),
    ("stage", WORDS, "The stage that wrote it."),
    ("prompt_id", WORDS, "The prompt that asked for it."),
    ("variant", WORDS, "Null until slots have variants."),
    _REVISION,
    _COMMIT,
    ("spec", WORDS, "The hash of all that decided what the caption says."),
    ("model", WORDS, "The model."),
    ("model_revision", WORDS, "The model's revision."),
    ("engine", WORDS, "What ran the model."),
    ("finish_reason", WORDS, "Why the writing ended."),
    ("prompt_tokens", pa.int32(), "Tokens read; null when not known."),
    ("output_tokens", pa.int32(), "Tokens written; null when not known."),
    ("mean_logprob", pa.float32(), "Mean log probability of the tokens written; null when not known."),
    ("seed", pa.int64(), "The seed of the sampling; null when there was none."),
    ("worker", WORDS, "The name of the worker."),
    _KEY,
    _LEASE,
    ("flags", pa.list_(pa.string()), "What is to be remarked of the caption, such as empty or truncated."),
    ("check_state", WORDS, "Null until captions are checked."),
    ("image_width", pa.int32(), "Pixels, as the image is shown; null when not known."),
    ("image_height", pa.int32(), "Pixels, as the image is shown; null when not known."),
    ("image_format", WORDS, "The format of the image file."),
    ("file_size", pa.int64(), "Bytes of the image file; null when not known."),
    ("image_sha256", pa.binary(HASH_BYTES), "SHA-256 of the image file; null when not known."),
    ("url", pa.string(), "The item's column url, where it has one."),
    _FILENAME,
    ("processing_ms", pa.float32(), "Time spent on the item, in milliseconds; null when not known."),
    ("generation", pa.int64(), "The number of the configuration; null when not known."),
    ("metadata", pa.string(), "The item's columns that dataset.keep_columns names, as a JSON object."),
)
_FAILURES: tuple[tuple[str, pa.DataType, str], ...] = (
    *_IDENTITY,
    _CONTRIBUTOR,
    _TIME,
    _INDEX,
    _REVISION,
    _COMMIT,
    ("reason", WORDS, "Why the item was given up."),
    ("fault", WORDS, "Whose fault it is: the item's, the worker's, the network's."),
    ("attempts", pa.int32(), "How often it was tried; null when not known."),
    ("detail", pa.string(), "What was said, as it was said."),
    ("who", pa.string(), "Who reported it."),
    _KEY,
    _LEASE,
    _FILENAME,
)
_JOBS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("job_id", pa.string(), "Shard, item range, pass and number of the lease; of a pending range without the number."),
    ("dataset", WORDS, "The dataset that the store holds."),
    ("shard", WORDS, "The name of the shard."),
    ("status", WORDS, "What became of the lease, or pending."),
    ("assigned_to", pa.string(), "Who has or had the lease; null when nobody."),
    ("timestamp", TIME, "When the status was taken on; null when not known."),
    ("item_start", pa.int64(), "The first item."),
    ("item_end", pa.int64(), "The item after the last."),
    ("revision", pa.int32(), "The number of the pass."),
    ("last_error", pa.string(), "What last went wrong; null when nothing did."),
)
_CONTRIBUTORS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("contributor_id", pa.string(), "As in captions."),
    ("name", pa.string(), "The name to show."),
    ("total_captions", pa.int64(), "Captions stored, sealed or not."),
    ("trust_level", pa.int32(), "From 0 to 5; null for one that the registry does not know."),
)
_TABLES = {"captions": _CAPTIONS, "failures": _FAILURES, "jobs": _JOBS, "contributors": _CONTRIBUTORS}

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    table: {name: text for name, _, text in fields} for table, fields in _TABLES.items()
}
"""What each column of each table means, in their order."""

SCHEMAS: Mapping[str, pa.Schema] = {
    table: pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in fields])
    for table, fields in _TABLES.items()
}


def word_columns(table: str) -> list[str]:
    """The columns with few distinct values; only for these a dictionary pays in the file."""
    return [field.name for field in SCHEMAS[table] if pa.types.is_dictionary(field.type)]
