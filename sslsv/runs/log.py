"""Write the metrics of a run to metrics.jsonl, TensorBoard and wandb, on the first worker only."""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from sslsv.runs.folder import RunFolder, finite_values

WandbMode = Literal["online", "offline", "disabled"]

OBJECT_SECONDS = 10.0  # between two writes of all records to object storage


class RunLog:
    """Write every record to all outputs that the settings enable.

    A record is a flat dictionary with `step`, `epoch` and numbers; its keys are those of metrics.jsonl.
    `config` holds all settings of the run. The id of the wandb run is kept in run.json, so that a resumed
    training continues the same wandb run.
    """

    def __init__(
        self, folder: RunFolder, *, first_step: int, config: dict[str, Any], wandb_mode: WandbMode
    ) -> None:
        self.folder = folder
        # Steps after the checkpoint are repeated, so their old records are removed. New lines are added to
        # this list for object storage, and only to the file on a disk.
        self._lines = [json.dumps(record) for record in folder.metrics() if record["step"] <= first_step]
        self._write_lines()
        self.notice = ""  # goes into the next record
        self.tensorboard = self.wandb = None
        if config["run"]["tensorboard"] and folder.is_local:  # Event files need a disk.
            from tensorboardX import SummaryWriter

            self.tensorboard = SummaryWriter(folder.path("tensorboard"), purge_step=first_step + 1)
        if wandb_mode != "disabled":
            self.wandb = self._open_wandb(config, wandb_mode)

    def write(self, record: dict[str, Any], *, is_urgent: bool = True) -> None:
        """Append one record to all outputs; NaN and infinity become null, so that JSON readers accept it.

        In object storage the entire file is rewritten: at once if `is_urgent`, otherwise every 10 s at most.
        """
        if self.notice:
            record["notice"] = f"{self.notice} {record.get('notice', '')}".strip()
            self.notice = ""
        finite = finite_values(record)
        if self.folder.is_local:
            self.folder.append_lines("metrics.jsonl", [json.dumps(finite)])
        else:
            self._lines.append(json.dumps(finite))
            if is_urgent or time.monotonic() - self._written >= OBJECT_SECONDS:
                self._write_lines()
        step = record["step"]
        numbers = {k: v for k, v in finite.items() if type(v) in (int, float) and k != "step"}
        if self.tensorboard is not None:
            for key, value in numbers.items():
                self.tensorboard.add_scalar(key, value, step)
            self.tensorboard.flush()
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def _write_lines(self) -> None:
        self.folder.write("metrics.jsonl", "".join(line + "\n" for line in self._lines).encode())
        self._written = time.monotonic()

    def close(self) -> None:
        """Close all outputs."""
        if not self.folder.is_local:
            with contextlib.suppress(OSError):  # The records that checkpoints need are already written.
                self._write_lines()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _open_wandb(self, config: dict[str, Any], mode: WandbMode) -> Any:
        """Return the wandb run; if wandb fails, return None and set a notice for the user."""
        import wandb

        try:
            return wandb.init(
                project=config["run"]["wandb_project"],
                name=self.folder.name,
                id=self.folder.read_json("run.json")["wandb_id"],
                resume="allow",
                mode=mode,
                dir=self.folder.location if self.folder.is_local else None,
                config=config,
                settings=wandb.Settings(console="off", quiet=True),  # The progress bar owns the terminal.
            )
        except Exception as error:  # No network, no key or a full disk must not end a training.
            reason = " ".join(str(error).split()) or type(error).__name__
            self.notice = f"wandb can't be used {mode}: {reason.rstrip('.')}; the run continues without it."
        return None


def wandb_mode(setting: Literal["auto"] | WandbMode) -> WandbMode:
    """Resolve the setting: `auto` is WANDB_MODE, or else the mode that `wandb online|offline` saved here.

    Without an API key, `auto` is never online. Call this in the user's own process: workers run in another
    folder, which lacks the saved mode.
    """
    if setting != "auto":
        return setting
    if not os.access(Path.home(), os.W_OK):  # wandb would warn about it in twelve lines
        os.environ.setdefault("WANDB_CACHE_DIR", tempfile.gettempdir())
    import wandb
    from requests.utils import get_netrc_auth

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode in ("offline", "dryrun"):  # `dryrun` is the old name of `offline`.
        return "offline"
    has_key = os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai")  # from `wandb login`
    return "online" if mode != "disabled" and has_key else "disabled"


def wandb_environment() -> dict[str, str]:
    """Return the WANDB_* variables of this process, including the API key; workers may lack them."""
    # WANDB_SERVICE is internal to wandb: the address of a helper process, valid on this machine only.
    return {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and k != "WANDB_SERVICE"}
