"""Writes checkpoints in a thread, so that training does not wait for a disk or an upload.

The state is copied while the loop waits, which takes as long as the memory needs; checksum, file and the
deletion of old checkpoints follow in the thread, one checkpoint at a time and in order.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from sslsv.config import RunConfig
from sslsv.runs.checkpoint import Checkpoint, encode_checkpoint, prune_checkpoints, write_encoded
from sslsv.runs.folder import RunFolder


class CheckpointWriter:
    """Writes the checkpoints of one run and deletes the ones no longer wanted.

    A checkpoint is there completely or not at all, whenever the process dies.  Old ones that can't be deleted
    are told to `notice`, once, and left: the training has lost nothing.
    """

    def __init__(
        self, folder: RunFolder, settings: RunConfig, notice: Callable[[str], None] | None = None
    ) -> None:
        self.folder, self.settings, self.notice = folder, settings, notice
        self.last_saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def is_due(self) -> bool:
        """Whether the last one is `checkpoint_every_minutes` old."""
        return time.monotonic() - self.last_saved >= 60 * self.settings.checkpoint_every_minutes

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy `checkpoint` to host memory and begin to write it; its tensors may change afterwards.

        Waits for the one before it, whose OSError (a full disk) is raised here.
        """
        self.wait()
        content = encode_checkpoint(checkpoint)
        self._pending = self._thread.submit(self._write, content, checkpoint.step, checkpoint.best_step)
        self.last_saved = time.monotonic()

    def wait(self) -> None:
        """Return when everything saved is in the run's folder; raises OSError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Let the last write end; its error, if nobody has waited for it, is lost."""
        self._thread.shutdown()

    def _write(self, content: bytes, step: int, best_step: int | None) -> None:
        write_encoded(self.folder, content, step)
        try:
            prune_checkpoints(self.folder, self.settings.keep_checkpoints, best_step)
        except OSError as error:
            self._tell(
                f"old checkpoints in {self.folder.location} can't be deleted, so they stay: "
                f"{' '.join(str(error).split()) or type(error).__name__}"
            )

    def _tell(self, sentence: str) -> None:
        notice, self.notice = self.notice, None
        if notice is not None:
            notice(sentence)
