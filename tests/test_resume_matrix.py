"""A dozen of the combinations of scripts/freezing/resume_matrix.py."""

from pathlib import Path

import pytest
from scripts.freezing.resume_matrix import PLACES, SOURCES, Case, cases, differing, make_files

pytestmark = [
    # Of fits of a few batches without a logger.
    pytest.mark.filterwarnings("ignore"),
]

QUICK = [Case("own", PLACES[1], 2, True, accumulate=2), Case("synthetic", PLACES[3], 0, True)]
OTHERS = [
    Case("folder", PLACES[0], 2, True, cached=True),
    Case("streaming", PLACES[2], 1, True),
    Case("csv", PLACES[4], 1, False),
    Case("digits", PLACES[0], 2, False, accumulate=2),
    Case("random", PLACES[1], 1, True, accumulate=2),
    Case("decoded_cache", PLACES[2], 2, True),
    Case("folder", PLACES[3], 2, True, cached=True),
    Case("folder", PLACES[4], 0, True, cached=True),
    Case("streaming", PLACES[1], 2, True, accumulate=2),
    Case("synthetic", PLACES[4], 2, True),
]


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)], ids=str)
def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(case: Case, tmp_path: Path) -> None:
    make_files(tmp_path)
    assert differing(case, tmp_path, tmp_path / "runs") == []


def test_the_matrix_has_every_source_place_and_way_to_load() -> None:
    found = cases()
    assert len(found) >= 60
    assert {(case.source, case.place) for case in found if case.ranks == 1} == {(s, p) for s in SOURCES for p in PLACES}
    assert {(case.workers, case.persistent) for case in found} == {
        (0, True),
        (1, True),
        (1, False),
        (2, True),
        (2, False),
    }
    assert (
        {case.place for case in found if case.ranks == 2}
        == {case.place for case in found if case.cached}
        == set(PLACES)
    )
