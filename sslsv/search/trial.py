"""Train one segment of a trial, from the newest checkpoint up to a rung; a process may train many."""

import contextlib
import ctypes
import gc
import os
import traceback
from dataclasses import replace

import torch

from sslsv.cluster.fit import fit
from sslsv.cluster.neighbours import watch_neighbours
from sslsv.cluster.worker import is_io_error
from sslsv.config import read_config
from sslsv.runs.display import LiveLine
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import WandbMode
from sslsv.training.loop import Training
from sslsv.training.validation import TrainingError


def run_segment(
    folder: RunFolder, until_epoch: int, wandb_mode: WandbMode, environment: dict[str, str]
) -> dict[str, str]:
    """Train the trial of a run folder up to an epoch; returns its `state` and `why`.

    The state is reached, collapsed, failed (a retry would fail too) or interrupted (by a storage or network
    error, which may be temporary). Other errors are raised. failure.txt gets the traceback.
    """
    os.environ.update(environment)
    try:
        config = read_config(folder.read("config.yml").decode())
        if folder.has("failure.txt"):
            folder.delete("failure.txt")  # an earlier attempt left it
        if config.resources.workers == 1:  # in this process, with the device and threads of the settings
            device = torch.device("cuda" if config.resources.gpu else "cpu")
            if device.type == "cpu":
                torch.set_num_threads(config.resources.threads_per_worker or 1)
                watch_neighbours()
            Training(config, folder, device=device, wandb_mode=wandb_mode).run(until_epoch)
        else:
            # The mode was resolved in the user's process, because this one runs in another folder.
            config = replace(config, run=replace(config.run, wandb=wandb_mode))
            with LiveLine("", is_shown=False) as line:
                result = fit(config, folder, line, until_epoch=until_epoch)
            if "error" in result:
                # The advice at the end of the message applies only to `sslsv train`.
                message = result["error"].partition("; the same command")[0]
                raise TrainingError(message) from (OSError(message) if result["is_system_error"] else None)
        last = folder.metrics()[-1]
    except Exception as error:  # always recorded, because Ray shows only its last line
        if not isinstance(error, TrainingError) or error.__cause__ is not None:  # else the message suffices
            with contextlib.suppress(OSError):  # the storage itself may have failed
                folder.write("failure.txt", traceback.format_exc().encode())
        reason = " ".join(str(error).split()) or type(error).__name__
        if is_io_error(error):
            return {"state": "interrupted", "why": reason}
        if isinstance(error, TrainingError | ValueError):
            return {"state": "failed", "why": reason}
        raise
    finally:  # Return the memory to the system, because this process will train further segments.
        gc.collect()  # a training has many reference cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if last.get("has_collapsed"):
        return {"state": "collapsed", "why": str(last["notice"])}
    return {"state": "reached", "why": ""}
