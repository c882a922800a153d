import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.prepare_data.measurements import SCHEMA, measure


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("c", "a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, size=2000), 16_000)
    (tmp_path / "bad.wav").touch()
    return [str(tmp_path / f"{name}.wav") for name in ("c", "bad", "a", "b")]


def paths_in(record: Path) -> list[str]:
    return [Path(json.loads(line)["path"]).stem for line in record.read_text().splitlines()]


def test_measure__rows_are_in_the_order_of_the_files(files: list[str], tmp_path: Path) -> None:
    table = measure(files, tmp_path / "out" / "record.jsonl", 1)
    assert table.schema.names == SCHEMA.names
    assert table["path"].to_pylist() == files
    assert [error is not None for error in table["error"].to_pylist()] == [False, True, False, False]


def test_measure__reads_again_only_what_changed_or_failed(files: list[str], tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    first = measure(files, record, 1)
    os.utime(files[2], ns=(1, 1))
    second = measure(files, record, 1)
    assert sorted(paths_in(record)[4:]) == ["a", "bad"]
    assert second["digest"].to_pylist() == first["digest"].to_pylist()
    assert second["mtime_ns"].to_pylist()[2] == 1
    soundfile.write(files[1], np.zeros(2000), 16_000)
    assert measure(files, record, 1)["error"].null_count == 4


def test_measure__goes_on_after_being_killed_within_a_line(files: list[str], tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    whole = measure(files, record, 1)
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    again = measure(files, record, 1)
    assert again.equals(whole)
    known = {Path(json.loads(line)["path"]).stem for line in lines[:2]}
    assert set(paths_in(record)[2:]) == {"a", "b", "c", "bad"} - (known - {"bad"})
    record.write_bytes(lines[0][:30])
    assert measure(files, record, 1).equals(whole)


def test_measure__damaged_record_is_named(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_text("this is no JSON\n")
    with pytest.raises(ValueError, match=r"record\.jsonl is damaged .* delete it"):
        measure(files, tmp_path / "record.jsonl", 1)


def peak_kb_of_known(folder: Path, num_files: int) -> float:
    """Memory that a process takes at most for `measure` and `judge` of files that the record knows."""
    folder.mkdir()
    numbers = {name: 0.123456789 for name in ("seconds", "peak_db", "level_db", "silent_share", "dc_offset")}
    row = {"size": -1, "mtime_ns": -1, "sample_rate": 16_000, "channels": 1, "encoding": "WAV PCM_16"}
    with (folder / "record.jsonl").open("w") as lines:
        for number in range(num_files):  # the files are gone: their stamp is -1, -1
            named = {"path": f"{folder}/{number:060d}.wav", "digest": f"{number:032x}"}
            lines.write(json.dumps(row | numbers | named) + "\n")
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from sslsv.prepare_data.measurements import measure\n"
        "from sslsv.prepare_data.verdicts import Limits, judge\n"
        "def peak_kb():\n"
        "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "folder = Path(sys.argv[1])\n"
        "files = [f'{folder}/{number:060d}.wav' for number in range(int(sys.argv[2]))]\n"
        "before = peak_kb()\n"
        "table = measure(files, folder / 'record.jsonl', 1)\n"
        "assert table['error'].null_count == len(files) == len(table) - table['digest'].null_count\n"
        "judge(table, Limits(), np.zeros(len(files), bool), np.ones(len(files), bool))\n"
        "print(peak_kb() - before)\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(num_files)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is Linux's to tell")
def test_measure__and_verdicts_of_what_is_known_take_little_memory_a_file(tmp_path: Path) -> None:
    # What the process takes whatever the files (Arrow's threads and buffers, some 100 MB) varies from run to
    # run; the difference of two numbers of files is free of it.
    few, many = (peak_kb_of_known(tmp_path / str(count), count) for count in (100_000, 300_000))
    assert (many - few) / 200_000 < 0.9  # kB; 1.5 where every row is held twice
