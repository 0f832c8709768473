"""Some hundred seeds of the simulated bus, and what all of them together must have seen."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from simulation.coverage import unseen
from simulation.run import replay, run_seeds
from simulation.world import FED_FROM, World

SEEDS = 400
BLOCKS = 8
FED_SEEDS = 200
FED_BLOCKS = 4
CALM_SEEDS = 300
MAX_WASTE = 1.2
MAX_WASTE_OF_ONE = 1.7
FEW_ITEMS = 16


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for this run, whichever process a block runs in."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    base = tmp_path_factory.getbasetemp()
    folder = base.parent / f"simulation-{run}" if run else base / "simulation"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("block", range(BLOCKS + FED_BLOCKS))
def test_seeds(block: int, shared_folder: Path) -> None:
    """Nothing is lost, doubled, granted twice or stuck; and the block that ends last looks at the coverage."""
    if block < BLOCKS:
        count = SEEDS // BLOCKS
        first = block * count
    else:
        count = FED_SEEDS // FED_BLOCKS
        first = FED_FROM + (block - BLOCKS) * count
    seen, failed = run_seeds(first, count)
    assert not failed, "\n".join(f"seed {seed}: {why}\n  replay: {replay(seed)}" for seed, why in failed.items())
    written = shared_folder / f"{block}.tmp"
    written.write_text(json.dumps(seen))
    written.rename(shared_folder / f"{block}.json")
    blocks = list(shared_folder.glob("*.json"))
    if len(blocks) == BLOCKS + FED_BLOCKS:
        total = sum((Counter(json.loads(path.read_text())) for path in blocks), Counter())
        missing = unseen(total, fed=True)
        assert not missing, f"never happened in {SEEDS + FED_SEEDS} seeds: {missing}"


def test_a_seed_decides_everything() -> None:
    def story(seed: int) -> list[str]:
        world = World(seed, whole_story=True)
        world.run()
        return list(world.story)

    assert story(11) == story(11) != story(12)


def test_without_faults_little_is_captioned_twice() -> None:
    """Backup leases cost a little at the end of a pass, and nothing else is done twice."""
    captioned = items = 0
    for seed in range(CALM_SEEDS):
        world = World(seed)
        plan = world.plan
        if plan.stormy or plan.zombie or plan.liar or plan.hostile or plan.reloads:
            continue
        world.run()
        own, all_items = world.seen["captioned"], len(world.disk.items)
        assert own <= MAX_WASTE_OF_ONE * all_items + FEW_ITEMS, replay(seed)
        captioned, items = captioned + own, items + all_items
    assert items > 500
    assert captioned <= MAX_WASTE * items
