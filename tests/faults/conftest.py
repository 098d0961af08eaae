from __future__ import annotations

from collections.abc import Iterator

import pytest
from trainings import Trainings


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    made = Trainings()
    yield made
    made.close()
