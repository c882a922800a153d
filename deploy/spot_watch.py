"""Tell Ray that Amazon will reclaim this spot instance: `python deploy/spot_watch.py HEAD:PORT`.

Amazon announces it two minutes ahead, but Ray does not check for the notice. This script asks the instance
metadata service every 5 seconds (IMDSv2: `spot/instance-action`). After a notice it runs `ray drain-node`
once: trainings write a checkpoint and restart on other machines. On a machine that is not a spot instance
the script exits at once, without output.
"""

import datetime
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

METADATA = "http://169.254.169.254"
PAUSE_SECONDS = 5.0  # as Amazon advises
ANSWER_SECONDS = 2.0
NOTICE_SECONDS = 110  # longest deadline passed to Ray; the notice comes 120 s ahead
MARGIN_SECONDS = 10  # reserved for Ray's own shutdown


def main(arguments: list[str] | None = None) -> int:
    """Run the watcher; arguments: address of Ray's head, and optionally URL of the metadata service."""
    address, *rest = sys.argv[1:] if arguments is None else arguments
    metadata = rest[0] if rest else METADATA
    if not is_spot(metadata):
        return 0
    seconds = None
    while seconds is None:
        time.sleep(PAUSE_SECONDS)
        seconds = seconds_left(metadata)
    return drain(address, seconds)


def is_spot(metadata: str) -> bool:
    """Return whether this is a spot instance; False too if the metadata service does not answer."""
    try:
        return read(metadata, "instance-life-cycle") == "spot"
    except OSError:
        return False


def seconds_left(metadata: str) -> int | None:
    """Return the deadline for Ray in seconds; None if there is no notice or no answer."""
    try:
        notice = json.loads(read(metadata, "spot/instance-action"))
        deadline = datetime.datetime.strptime(notice["time"], "%Y-%m-%dT%H:%M:%SZ")
    except OSError:  # 404 without a notice
        return None
    except (ValueError, KeyError):  # a notice whose time cannot be read
        return NOTICE_SECONDS
    remaining = (
        deadline.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.now(datetime.timezone.utc)
    ).total_seconds()
    return max(1, min(NOTICE_SECONDS, int(remaining) - MARGIN_SECONDS))


def read(metadata: str, name: str) -> str:
    """Return one entry of the metadata. Raises OSError; a missing entry raises its subclass HTTPError."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(urllib.request.Request(f"{metadata}/latest/api/token", method="PUT", headers=lifetime))
    header = {"X-aws-ec2-metadata-token": token}
    return _ask(urllib.request.Request(f"{metadata}/latest/meta-data/{name}", headers=header))


def _ask(request: urllib.request.Request) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is on this machine
    with opener.open(request, timeout=ANSWER_SECONDS) as answer:
        return str(answer.read().decode().strip())


def drain(address: str, seconds: int) -> int:
    """Ask Ray to leave this machine and return the exit code of `ray drain-node`."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot instance-action"]
    # Without --node-id, `ray drain-node` drains the machine that it runs on.
    return subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)]).returncode


if __name__ == "__main__":
    sys.exit(main())
