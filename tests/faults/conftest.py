"""One server of forked commands for all tests of faults: it takes as long to start as several runs."""

from collections.abc import Iterator

import pytest
from kills import Killer, server


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with server(tmp_path_factory.mktemp("faults")) as (started, data):
        yield Killer(started, data, started.folder, seed=0)
