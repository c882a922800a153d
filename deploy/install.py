"""Run pip install with progress output: `python deploy/install.py -r requirements.txt` (pip's arguments).

In a terminal, one line is updated in place. A file or pipe gets a line for each large download, and a line
every half minute while pip unpacks. The exit code is pip's.
"""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

START = time.monotonic()
LARGE_BYTES = 20e6
PAUSE_SECONDS = 1.0 if sys.stdout.isatty() else 30.0  # between two progress lines while pip unpacks


def main() -> int:
    """Run pip and print its progress; pip's errors and warnings go to stderr unchanged."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "raw"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}  # setuptools' warnings fill a page
    process = subprocess.Popen([*pip, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    name, count = "", 0
    for line in process.stdout:
        if re.match(r"\s*Downloading (?!.*\.metadata)", line):
            name, count = re.split(r"-\d", line.split()[1].rpartition("/")[2])[0], count + 1
        elif match := re.match(r"Progress (\d+) of (\d+)", line):
            done, size = map(int, match.groups())
            if sys.stdout.isatty() or (done == 0 and size >= LARGE_BYTES):
                say(f"download {count}: {name}, {done / 1e6:.0f} of {size / 1e6:.0f} MB")
        elif line.startswith("Installing collected packages:"):
            watch_unpacking(process, line.count(",") + 1)
        elif line.startswith("Successfully installed"):
            say(f"installed {len(line.split()) - 2} packages", is_last=True)
    return process.wait()


def watch_unpacking(process: "subprocess.Popen[str]", total: int) -> None:
    """Print the number of unpacked packages until pip ends, because pip itself does not."""
    folder = Path(sysconfig.get_path("purelib"))
    before = len([*folder.glob("*.dist-info")])
    while process.poll() is None:
        say(f"unpacked {len([*folder.glob('*.dist-info')]) - before} of {total} packages")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PAUSE_SECONDS)


def say(text: str, is_last: bool = False) -> None:
    """Print a line with the elapsed seconds; in a terminal it replaces the previous line."""
    prefix, end = ("\r\x1b[K", "\n" if is_last else "") if sys.stdout.isatty() else ("", "\n")
    print(f"{prefix}{time.monotonic() - START:4.0f} s  {text}", end=end, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # pip gets the same signal and ends
        sys.exit("stopped; the same command goes on")
