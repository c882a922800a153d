import os
from pathlib import Path

import pytest

from sslsv.prepare_data.parallel import map_files


def square_or_die(number: int) -> int:
    if number < 0:
        os._exit(9)
    return number**2


def describe_process(_: int) -> tuple[int, str]:
    return os.nice(0), os.environ["OMP_NUM_THREADS"]


def fail(path: Path) -> None:
    raise OSError(f"{path} fails")


def test_map_files__every_item_has_its_result_and_a_dead_process_costs_one() -> None:
    items = [*range(40), -1, *range(40, 70)]
    results = dict(pair for pairs in map_files(square_or_die, items, 2) for pair in pairs)
    assert results == {i: number**2 if number >= 0 else None for i, number in enumerate(items)}


def test_map_files__processes_are_niced_and_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(map_files(describe_process, [0], 1)) == [[(0, (19, "1"))]]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_map_files__exception_ends_it_and_nothing_to_do_is_nothing() -> None:
    with pytest.raises(OSError, match="x fails"):
        list(map_files(fail, [Path("x")], 1))
    assert list(map_files(fail, [], 1)) == []
