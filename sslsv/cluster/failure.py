"""What made a training fail, for its user and for a search that may try again."""

import contextlib

from sslsv.cluster.elastic import NoRoomError
from sslsv.runs.folder import RunFolder, below


def is_failure_of_system(error: Exception) -> bool:
    """Whether training failed for what may pass: storage or network of a worker, or no machines for them."""
    if isinstance(getattr(error, "controller_failure", None), NoRoomError):
        return True
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(isinstance(getattr(cause, "cause", None) or cause, OSError) for cause in causes)


def failure_sentence(error: Exception, folder: RunFolder) -> str:
    """What made training fail, in one sentence; the traceback goes to `failure.txt` in the run folder."""
    goes_on = "the same command goes on from the last checkpoint"
    if isinstance(getattr(error, "controller_failure", None), NoRoomError):
        return f"training stopped: {error.controller_failure}; {goes_on}"  # type: ignore[attr-defined]
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, cause = next(iter(failures.items()))
        who = f"training worker {rank}"
    else:
        cause = getattr(error, "controller_failure", None) or error
        who = "Ray's controller of the training"
    original = getattr(cause, "cause", None) or cause
    with contextlib.suppress(OSError):
        folder.write("failure.txt", str(cause).encode())
    lines = [line for line in str(original).strip().splitlines() if line.strip()] or [type(original).__name__]
    return (
        f"{who} failed: {lines[-1].strip()} (details in {below(folder.location, 'failure.txt')}); {goes_on}"
    )
