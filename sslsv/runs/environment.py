"""Describe what a result was made with: versions, machine, commit.  No user names, paths or secrets."""

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
    import torch  # It takes a second: command lines that only refuse must not wait for it.

    result = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    packages = ("torch", "torchaudio", "ray", "numpy", "scipy", "soundfile")
    result |= {"sslsv": __version__, **{package: version(package) for package in packages}}
    cpus = Path("/proc/cpuinfo")  # of Linux
    names = re.findall(r"model name\s*: (.*)", cpus.read_text()) if cpus.is_file() else []
    result["cpu"] = ", ".join([f"{os.cpu_count()} cores", *names[:1]])
    if torch.cuda.is_available():
        result["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    # Installed below another project, this package lies in that one's checkout.
    is_own = _git("ls-files", "--error-unmatch", Path(__file__).name)
    if is_own and (commit := _git("rev-parse", "--short=12", "HEAD")):
        has_changes = bool(_git("status", "--porcelain", "--untracked-files=no"))
        result["commit"] = f"{commit}+changes" if has_changes else commit
    return result


def usable_cpus() -> int:
    """Count the cores that this process may run on: a job of Slurm, say, may have 4 of a machine's 128."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def computes_bf16(cpus: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this machine's CPU has instructions for bf16; True where Linux does not say."""
    return not cpus.is_file() or not {"bf16", "avx512_bf16", "amx_bf16"}.isdisjoint(cpus.read_text().split())


def _git(*arguments: str) -> str:
    """Return the output of a git command in this package's folder; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()
    return ""
