"""Write the numbers of a run to metrics.jsonl, TensorBoard and wandb; only the first worker does."""

import json
import math
import os
from typing import Any, Literal

from sslsv.runs.folder import RunFolder

WandbMode = Literal["online", "offline", "disabled"]


class RunLog:
    """Write every record to all the places that the settings ask for.

    A record is a flat dictionary with `step`, `epoch` and numbers; its keys are those of metrics.jsonl.  The
    id of the wandb run is kept in run.json, so that a resumed training goes on in the same one.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        first_step: int,
        config: dict[str, Any],
        use_tensorboard: bool,
        wandb_mode: WandbMode,
        wandb_project: str,
    ) -> None:
        self.folder = folder
        kept = [record for record in folder.metrics() if record["step"] <= first_step]
        # Steps after the checkpoint are done again: their records go, or they would be there twice.
        folder.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept).encode())
        self.tensorboard = self.wandb = None
        if use_tensorboard and folder.is_local:  # Event files need a disk.
            from tensorboardX import SummaryWriter

            self.tensorboard = SummaryWriter(folder.path("tensorboard"), purge_step=first_step + 1)
        if wandb_mode != "disabled":
            self.wandb = self._open_wandb(config, wandb_mode, wandb_project)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record everywhere; NaN and infinity become null, so that JSON readers accept it."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.folder.append_lines("metrics.jsonl", [json.dumps(finite)])
        step = record["step"]
        numbers = {k: v for k, v in finite.items() if type(v) in (int, float) and k != "step"}
        if self.tensorboard is not None:
            for key, value in numbers.items():
                self.tensorboard.add_scalar(key, value, step)
            self.tensorboard.flush()
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)
        if "notice" in record:
            self.folder.notice(record["notice"])

    def close(self) -> None:
        """Finish what is open; the numbers written so far are safe in any case."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _open_wandb(self, config: dict[str, Any], mode: WandbMode, project: str) -> Any:
        """Return the wandb run in the first mode that works, or None; tells the user which fail."""
        import wandb

        modes: list[WandbMode] = ["online", "offline"] if mode == "online" else [mode]
        for tried in modes:
            try:
                return wandb.init(
                    project=project,
                    name=self.folder.name,
                    id=self.folder.read_json("run.json")["wandb_id"],
                    resume="allow",
                    mode=tried,
                    dir=self.folder.location if self.folder.is_local else None,
                    config=config,
                    settings=wandb.Settings(console="off", quiet=True),  # The terminal is the progress bar's.
                )
            except Exception as error:  # No network, no key, a full disk: none is worth a training.
                why = " ".join(str(error).split()) or type(error).__name__
                then = "offline (send it later with `wandb sync`)" if tried != modes[-1] else "without wandb"
                self.folder.notice(f"wandb can't be used {tried}: {why}; the run goes on {then}.")
        return None


def wandb_mode(setting: Literal["auto"] | WandbMode) -> WandbMode:
    """Resolve the setting: `auto` is online if there is an API key, else disabled.

    Before that, `auto` asks WANDB_MODE and what `wandb online|offline|disabled` has noted for this folder.
    Called in the user's own process: workers run in another folder and would miss the note.
    """
    if setting != "auto":
        return setting
    import wandb
    from requests.utils import get_netrc_auth

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode in ("offline", "dryrun"):  # Dryrun is the old name of offline.
        return "offline"
    has_key = os.environ.get("WANDB_API_KEY") or get_netrc_auth("https://api.wandb.ai")  # from `wandb login`
    return "online" if mode != "disabled" and has_key else "disabled"


def wandb_environment() -> dict[str, str]:
    """Return the WANDB_* variables of this process, for workers, which may lack them; the API key too."""
    # WANDB_SERVICE is wandb's own: the address of this process's helper, which is on this machine only.
    return {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and k != "WANDB_SERVICE"}
