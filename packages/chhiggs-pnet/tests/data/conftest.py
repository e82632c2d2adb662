"""Small samples in both layouts, and files with defects made on purpose."""

from pathlib import Path

import pytest

from chhiggs_pnet.data.branch_map import BranchMap, load_branch_map
from chhiggs_pnet.data.schema import LAYOUTS
from chhiggs_pnet.data.writer import EventWriter
from chhiggs_pnet.physics.events import Events
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint


@pytest.fixture(scope="session")
def events() -> Events:
    sample = generate_events("signal", "Run1E2Mu", 300, 0, point=MassPoint(130, 90))
    return sample.events.with_ids(7, 3, 100)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, events: Events) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("layouts")
    out = {}
    for layout in LAYOUTS:
        out[layout] = directory / f"{layout}.root"
        with EventWriter(out[layout], layout) as writer:
            writer.extend(events.take(slice(0, 120)))
            writer.extend(events.take(slice(120, None)))
    return out


@pytest.fixture(scope="session")
def maps() -> dict[str, BranchMap]:
    return {layout: load_branch_map(layout) for layout in LAYOUTS}
