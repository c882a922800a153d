"""Tells Ray that this spot machine will be taken away: `python -m sslsv.spot_watch HEAD:PORT`.

Nothing that Ray ships asks Amazon for its notice, two minutes ahead.  This does, every 5 seconds, from the
instance metadata service (IMDSv2: `spot/instance-action`), and then runs `ray drain-node` once: trainings
write a checkpoint and start again elsewhere.  It ends at once, without a word, on a machine that is no spot
instance.
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
MOST_SECONDS, MARGIN_SECONDS = 110, 10  # of a notice of 120, and what is left for Ray to end


def main(arguments: list[str] | None = None) -> int:
    """Command line entry: the address of Ray's head, then the metadata service's, if it is another one."""
    address, *others = sys.argv[1:] if arguments is None else arguments
    metadata = others[0] if others else METADATA
    if not is_spot(metadata):
        return 0
    seconds = None
    while seconds is None:
        time.sleep(PAUSE_SECONDS)
        seconds = seconds_left(metadata)
    return drain(address, seconds)


def is_spot(metadata: str) -> bool:
    """Whether this is a spot instance, which alone has notices; no where nothing answers."""
    try:
        return read(metadata, "instance-life-cycle") == "spot"
    except OSError:
        return False


def seconds_left(metadata: str) -> int | None:
    """Seconds until this machine goes, as Ray should be told, or None: no notice, or no answer this time."""
    try:
        notice = json.loads(read(metadata, "spot/instance-action"))
        at = datetime.datetime.strptime(notice["time"], "%Y-%m-%dT%H:%M:%SZ")
    except OSError:  # 404 where there is no notice
        return None
    except (ValueError, KeyError):  # a notice all the same
        return MOST_SECONDS
    left = (
        at.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.now(datetime.timezone.utc)
    ).total_seconds()
    return max(1, min(MOST_SECONDS, int(left) - MARGIN_SECONDS))


def read(metadata: str, name: str) -> str:
    """One entry of the metadata; raises OSError, among them HTTPError where there is no such entry."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(urllib.request.Request(f"{metadata}/latest/api/token", method="PUT", headers=lifetime))
    header = {"X-aws-ec2-metadata-token": token}
    return _ask(urllib.request.Request(f"{metadata}/latest/meta-data/{name}", headers=header))


def _ask(request: urllib.request.Request) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with opener.open(request, timeout=ANSWER_SECONDS) as answer:
        return str(answer.read().decode().strip())


def drain(address: str, seconds: int) -> int:
    """Have Ray leave this machine; returns the exit code of `ray drain-node`."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot instance-action"]
    # Without --node-id it means the machine that it runs on.
    return subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)]).returncode


if __name__ == "__main__":
    sys.exit(main())
