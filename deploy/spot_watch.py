"""Tell Ray that this spot machine will be taken away: `python deploy/spot_watch.py HEAD:PORT`.

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
NOTICE_SECONDS = 110  # the most that Ray is told; a notice comes 120 s ahead
MARGIN_SECONDS = 10  # kept for Ray itself to end


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
    """Tell whether this is a spot instance, which alone has notices; not so where nothing answers."""
    try:
        return read(metadata, "instance-life-cycle") == "spot"
    except OSError:
        return False


def seconds_left(metadata: str) -> int | None:
    """Return the seconds until this machine goes, as Ray is told; None: no notice, or no answer now."""
    try:
        notice = json.loads(read(metadata, "spot/instance-action"))
        at = datetime.datetime.strptime(notice["time"], "%Y-%m-%dT%H:%M:%SZ")
    except OSError:  # 404 where there is no notice
        return None
    except (ValueError, KeyError):  # a notice all the same
        return NOTICE_SECONDS
    left = (
        at.replace(tzinfo=datetime.timezone.utc) - datetime.datetime.now(datetime.timezone.utc)
    ).total_seconds()
    return max(1, min(NOTICE_SECONDS, int(left) - MARGIN_SECONDS))


def read(metadata: str, name: str) -> str:
    """Return one entry of the metadata; raises OSError, among them HTTPError where there is none."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(urllib.request.Request(f"{metadata}/latest/api/token", method="PUT", headers=lifetime))
    header = {"X-aws-ec2-metadata-token": token}
    return _ask(urllib.request.Request(f"{metadata}/latest/meta-data/{name}", headers=header))


def _ask(request: urllib.request.Request) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with opener.open(request, timeout=ANSWER_SECONDS) as answer:
        return str(answer.read().decode().strip())


def drain(address: str, seconds: int) -> int:
    """Have Ray leave this machine and return the exit code of `ray drain-node`."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot instance-action"]
    # Without --node-id it means the machine that it runs on.
    return subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)]).returncode


if __name__ == "__main__":
    sys.exit(main())
