"""The keys of a bus that one person runs on one machine: made once, kept in a folder, known to the registry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cfbus.bus import keys
from cfbus.bus.messages import Role
from cfbus.store.durable import make_dir
from cfbus.store.registry import Registry

LOCAL_CONTRIBUTOR = "local"
WHO = "cfbus"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Where the keys lie."""

    folder: Path

    def path(self, name: str) -> Path:
        """The secret key file of this name."""
        return self.folder / f"{name}.key_secret"

    def server_line(self) -> str:
        """The broker's public key as one line."""
        return keys.public_line(keys.load(self.path("broker")).public, "broker")


def prepare(folder: Path, registry_path: Path, roles: dict[str, Role]) -> Keyring:
    """Make the keys that are missing (the broker's and one for each name) and enter them in the registry."""
    make_dir(folder)
    folder.chmod(0o700)
    make_dir(registry_path.parent)
    ring = Keyring(folder)
    for name in ("broker", *roles):
        if not ring.path(name).exists():
            keys.save(keys.generate(), ring.path(name), name, roles[name].value if name in roles else "broker")
    now = time.time()
    with Registry.open(registry_path, create=True) as registry:
        owner = registry.add_contributor(LOCAL_CONTRIBUTOR, trust=5, who=WHO, now=now)
        for name, role in roles.items():
            public = keys.load(ring.path(name)).public
            registry.add_key(public, role, owner.contributor_id, name, who=WHO, now=now)
    return ring
