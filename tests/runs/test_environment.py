"""Test the description of a machine; other parts are tested where a run's environment is read."""

import subprocess

import pytest

from sslsv.runs import environment
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


@pytest.mark.parametrize("tracked", ["environment.py", "other.py"])
def test_describe_environment__has_no_commit_of_a_project_that_it_is_only_installed_in(
    tracked, tmp_path, monkeypatch
):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    for name in ("environment.py", "other.py"):
        (tmp_path / name).touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", tracked], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert ("commit" in environment.describe_environment.__wrapped__()) == (tracked == "environment.py")
