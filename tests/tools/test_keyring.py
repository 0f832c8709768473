"""The keys of a bus on one machine: made once, private, known to the registry."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from cfbus.bus import keys
from cfbus.bus.messages import Role
from cfbus.errors import KeyRefusedError, UnsafeError
from cfbus.store.registry import Registry
from cfbus.tools import keyring

ROLES = {"writer": Role.WRITER, "gpu-0": Role.WORKER, "admin": Role.ADMIN}


def known(path: Path) -> dict[bytes, Role]:
    with Registry.open(path, create=False) as registry:
        table = registry.key_table(time.time())
    return {public: entry.role for public, entry in table.items()}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "run" / "registry.sqlite"


def test_each_name_has_a_key_with_its_role(tmp_path: Path, registry: Path) -> None:
    ring = keyring.prepare(tmp_path / "keys", registry, ROLES)
    roles = known(registry)
    assert {keys.load(ring.path(name)).public: role for name, role in ROLES.items()} == roles
    public, _ = keys.parse_public_line(ring.server_line())
    assert public == keys.load(ring.path("broker")).public
    assert public not in roles


def test_secrets_are_for_their_owner_alone(tmp_path: Path, registry: Path) -> None:
    folder = tmp_path / "keys"
    keyring.prepare(folder, registry, ROLES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.suffix == ".key_secret" else 0o644)
    assert not registry.stat().st_mode & 0o077


def test_again_changes_nothing_and_adds_what_is_new(tmp_path: Path, registry: Path) -> None:
    ring = keyring.prepare(tmp_path / "keys", registry, ROLES)
    files = {path.name: path.read_bytes() for path in ring.folder.iterdir()}
    before = known(registry)
    keyring.prepare(tmp_path / "keys", registry, ROLES)
    assert {path.name: path.read_bytes() for path in ring.folder.iterdir()} == files
    assert known(registry) == before
    keyring.prepare(tmp_path / "keys", registry, ROLES | {"gpu-1": Role.WORKER})
    assert len(known(registry)) == len(before) + 1


def test_a_registry_that_was_lost_is_filled_again(tmp_path: Path, registry: Path) -> None:
    keyring.prepare(tmp_path / "keys", registry, ROLES)
    before = known(registry)
    for path in registry.parent.iterdir():
        path.unlink()
    keyring.prepare(tmp_path / "keys", registry, ROLES)
    assert known(registry) == before


def test_a_lax_or_foreign_key_is_not_used(tmp_path: Path, registry: Path) -> None:
    ring = keyring.prepare(tmp_path / "keys", registry, ROLES)
    ring.path("writer").chmod(0o644)
    with pytest.raises(UnsafeError, match="mode 0644"):
        keyring.prepare(tmp_path / "keys", registry, ROLES)
    ring.path("writer").chmod(0o600)
    other = keys.load(ring.path("admin")).secret.decode()
    mine = keys.load(ring.path("writer")).secret.decode()
    ring.path("writer").write_text(ring.path("writer").read_text().replace(mine, other))
    with pytest.raises(KeyRefusedError, match="do not belong together"):
        keyring.prepare(tmp_path / "keys", registry, ROLES)
