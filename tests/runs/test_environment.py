"""What is said of a machine; the rest of it is tested where a run's environment is read."""

import pytest

from sslsv.runs.environment import computes_bf16


@pytest.mark.parametrize(
    ("cpus", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        (None, True),
    ],
)
def test_computes_bf16__by_the_flags_of_intel_amd_and_arm(cpus, has, tmp_path):
    if cpus is not None:
        (tmp_path / "cpuinfo").write_text(cpus)
    assert computes_bf16(tmp_path / "cpuinfo") is has
