"""The file of Ray's token: who can read it runs code in every cluster that asks for it."""

import os
from pathlib import Path


def keep_token_private() -> None:
    """Let only the owner read `~/.ray/auth_token`, which Ray would write for all users of the machine.

    Does nothing where Ray takes the token from elsewhere or asks for none.  Raises OSError with a sentence
    when the file of a new cluster can't be made.
    """
    names_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if names_token or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    is_new_cluster = os.environ.get("RAY_ADDRESS", "") in ("", "local")
    try:
        if is_new_cluster and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # before Ray makes it: an empty file is none to Ray, which then fills it
        status = file.stat() if file.exists() else None
        if status and status.st_uid == os.getuid() and status.st_mode & 0o077:
            file.chmod(0o600)
    except OSError as error:
        raise OSError(
            f"the token that Ray asks for can't be kept in {file} ({error}); set HOME to a folder that you "
            "can write to, or RAY_AUTH_TOKEN to a long random text"
        ) from error
