"""Describe the environment of a result: versions, machine, commit, but no user names, paths or secrets."""

import contextlib
import functools
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from sslsv import __version__


@functools.cache
def describe_environment() -> dict[str, str]:
    """Return library versions, hardware and, in a git checkout, the commit (`+changes` if files differ)."""
    import torch  # Takes a second; commands that only report an error must not wait for it.

    result = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    packages = ("torch", "torchaudio", "ray", "numpy", "scipy", "soundfile")
    result |= {"sslsv": __version__, **{package: version(package) for package in packages}}
    cpus = Path("/proc/cpuinfo")  # Linux only
    names = re.findall(r"model name\s*: (.*)", cpus.read_text()) if cpus.is_file() else []
    result["cpu"] = ", ".join([f"{os.cpu_count()} cores", *names[:1]])
    if torch.cuda.is_available():
        result["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    # If the package is installed inside another project's checkout, git would report that project's commit.
    is_own = _git("ls-files", "--error-unmatch", Path(__file__).name)
    if is_own and (commit := _git("rev-parse", "--short=12", "HEAD")):
        has_changes = bool(_git("status", "--porcelain", "--untracked-files=no"))
        result["commit"] = f"{commit}+changes" if has_changes else commit
    return result


def usable_cpus() -> int:
    """Return the number of cores that this process may use; a Slurm job may have 4 of a machine's 128."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def computes_bf16(cpus: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU of this machine has bf16 instructions; True without /proc/cpuinfo."""
    return not cpus.is_file() or not {"bf16", "avx512_bf16", "amx_bf16"}.isdisjoint(cpus.read_text().split())


def _git(*arguments: str) -> str:
    """Return the output of a git command in this package's folder; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()
    return ""
