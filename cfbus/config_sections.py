"""The sections of the processes: `storage`, `broker`, `writer`, `worker`, `feeder`, `metrics`, `admin`.

`dataset` and `captions` have files of their own. No section knows another; what goes across them is `cfbus.config`'s.
"""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from cfbus.config_types import AnyPath, Endpoint, Folder, Gpus, Line, Whole
from cfbus.config_words import Section
from cfbus.logs import display


def _cores() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0))))


def host_name() -> str:
    """What this machine is called, fit to be shown."""
    return display(socket.gethostname(), 64) or "worker"


def _ending(text: str) -> str:
    if text in ("stay", "exit"):
        return text
    try:
        words = shlex.split(text.removeprefix("run:"))
    except ValueError:
        words = []
    if not text.startswith("run:") or not words:
        raise ValueError("stay, exit or run:PROGRAM")
    return text


class Storage(Section):
    data_dir: Folder = Field(
        default=Path("cfbus-store"),
        description="The store: the folder for listing, journal, tables and manifest of this one dataset.",
    )
    seal_mib: Whole = Field(
        default=256, ge=1, le=16384, description="A journal of this size (MiB) becomes a parquet file."
    )
    seal_seconds: Whole = Field(
        default=600, ge=1, le=7 * 86400, description="So does one of this age (seconds); with many small files, later."
    )


class KeyLimits(Section):
    connections: Whole = Field(
        default=256, ge=1, le=1 << 20, description="The most connections of one key to the bus at the same time."
    )
    handshakes_per_minute: Whole = Field(
        default=1200, ge=1, le=1 << 30, description="How often one key may connect, each minute."
    )
    leases: Whole = Field(default=8192, ge=1, le=1 << 20, description="The most leases of one key at the same time.")
    messages_per_second: Whole = Field(
        default=20_000, ge=1, le=1 << 30, description="How many messages one key may send, each second."
    )
    mib_per_second: Whole = Field(
        default=512, ge=1, le=1 << 20, description="How much one key may send (MiB), each second."
    )


class Broker(Section):
    host: Line = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=255,
        description="The address to listen on; 0.0.0.0 or :: for all, so that others can join.",
    )
    port: Whole = Field(default=7710, ge=0, le=65535, description="The port of the bus; 0 takes any that is free.")
    stats_port: Whole = Field(
        default=7711, ge=0, le=65535, description="The port of the statistics; 0 takes any that is free."
    )
    data_dir: Folder = Field(
        default=Path("cfbus-store/run"),
        description="The folder for registry (keys) and ledger; by default 'run' in storage.data_dir.",
    )
    key_file: AnyPath = Field(
        default=Path("keys/broker.key_secret"), description="The broker's secret key, readable by it alone."
    )
    chunk_size: Whole = Field(
        default=1000, ge=1, le=100_000, description="The most items that one lease hands to a worker."
    )
    lease_seconds: Whole = Field(
        default=120, ge=5, le=86400, description="How long a lease lasts (seconds) without being renewed."
    )
    max_attempts: Whole = Field(
        default=3, ge=1, le=100, description="After so many failed attempts an item becomes a dead letter."
    )
    limits: KeyLimits = Field(default_factory=KeyLimits, description="What one key may cost the bus.")
    key_days: Whole = Field(
        default=90,
        ge=0,
        le=36_500,
        description="How long a key lasts (days) that is enrolled or added from now on; 0: for ever. Those that"
        " `cfbus init` and `cfbus run` make for this bus last for ever.",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Broker:
        if self.port == self.stats_port != 0:
            raise ValueError(f"port and stats_port are both {self.port}; give each its own")
        return self


class Peer(Section):
    """What everyone needs who dials the broker."""

    server: Endpoint = Field(default="tcp://127.0.0.1:7710", description="The broker's address.")
    server_key: Line = Field(
        default="", max_length=512, description="The broker's public key, one line, as the broker shows it."
    )


class Writer(Peer):
    key_file: AnyPath = Field(
        default=Path("keys/writer.key_secret"), description="The writer's secret key, readable by it alone."
    )


class Worker(Peer):
    key_file: AnyPath = Field(
        default=Path("keys/worker.key_secret"), description="The worker's secret key, readable by it alone."
    )
    name: Line = Field(
        default_factory=host_name,
        min_length=1,
        max_length=64,
        description="What this worker is called on screens; by default the name of the machine.",
    )
    gpu_id: Gpus = Field(
        default="0",
        description="The GPU of this worker, by its number or its name (GPU-…, MIG-…); one process for each GPU, but"
        " for a model on several: 0,1 or [0, 1].",
    )
    spool_dir: Folder = Field(
        default=Path("spool"), description="The folder for results that are not yet acknowledged."
    )
    spool_mib: Whole = Field(
        default=512, ge=1, le=1 << 20, description="The most that the spool may hold (MiB); near it nothing is begun."
    )
    decoders: Whole = Field(
        default_factory=_cores,
        ge=1,
        le=256,
        description="Processes that decode images; by default one for each core, at most 8.",
    )
    when_finished: Annotated[Line, AfterValidator(_ending)] = Field(
        default="stay",
        max_length=1000,
        description="What the worker does when everything is captioned: 'stay' and wait for more, 'exit', or"
        " 'run:PROGRAM' with its arguments in the worker's place.",
    )
    concurrency: Whole = Field(
        default=64, ge=1, le=4096, description="How many items the engine works on at the same time."
    )


class Feeder(Peer):
    key_file: AnyPath = Field(
        default=Path("keys/feeder.key_secret"), description="The feeder's secret key, readable by it alone."
    )
    name: Line = Field(
        default_factory=host_name,
        min_length=1,
        max_length=64,
        description="What this feeder is called on screens; by default the name of the machine.",
    )
    host: Line = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=255,
        description="The address to listen on for workers; 0.0.0.0 or :: for all.",
    )
    port: Whole = Field(default=7712, ge=0, le=65535, description="The port for workers; 0 takes any that is free.")
    reachable_at: Endpoint | None = Field(
        default=None, description="Where workers reach this feeder; by default the address that it listens on."
    )
    memory_mib: Whole = Field(
        default=256, ge=16, le=1 << 20, description="The most that is read ahead for all workers together (MiB)."
    )


class Metrics(Section):
    host: Line = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=255,
        description="The address where figures are served; anybody who reaches it can read them.",
    )
    port: Whole = Field(
        default=0,
        ge=0,
        le=65000,
        description="The port of the broker's figures for Prometheus (/metrics), 0 for none; the writer's is the next,"
        " the feeder's the one after, that of the worker on GPU N is 10 + N further.",
    )


class Admin(Peer):
    stats: Endpoint = Field(default="tcp://127.0.0.1:7711", description="The address of the statistics.")
    key_file: AnyPath = Field(
        default=Path("keys/admin.key_secret"), description="The admin's secret key, readable by it alone."
    )
