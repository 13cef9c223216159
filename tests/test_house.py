"""The structure of the source stays within its limits: `python -m tools.house` prints the figures."""

import pytest

from tools import house

ALL = house.modules()
ROOMS = sorted({module.room for module in ALL})


def test_no_room_is_a_house():
    assert {room: share for room, share in house.room_shares().items() if share > house.LARGEST_ROOM} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_lines_are_not_dense(room):
    assert house.comprehension_density(house.modules(room)) <= house.COMPREHENSION_DENSITY


def test_functions_take_few_parameters_and_are_short_and_simple():
    assert len(house.many_parameters(ALL)) <= house.FUNCTIONS_WITH_MORE, house.many_parameters(ALL)
    assert house.complex_functions(ALL) == []
    assert house.long_functions(ALL) == []
    assert house.long_files(ALL) == []


def test_any_is_rare():
    assert len(house.any_uses(ALL)) <= house.ANY


def test_each_module_is_tested_by_name():
    assert house.untested(ALL) == []


def test_stages_hold_verbs_that_work_in_a_workspace():
    assert house.passing_store_and_events() == []
    verbs = {module.path.stem for module in house.modules("stages")} - {"__init__"}
    assert verbs == {
        "bench",
        "calibrate",
        "compare",
        "doctor",
        "drift",
        "evaluate",
        "export",
        "generate",
        "leaderboard",
        "pipeline",
        "precalc_time",
        "quantize",
        "report",
        "sample",
        "sensitivity",
    }
