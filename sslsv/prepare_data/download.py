"""One file from a server: continued where it stopped, checked by its md5, named when it is complete."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
import requests.auth
import urllib3

from sslsv.prepare_data.partial_file import DownloadError, PartialFile
from sslsv.prepare_data.progress_line import readable_bytes
from sslsv.prepare_data.sources import HOW_TO_GET, Remote

_CHUNK = 2**20
_SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE = 15.0, 60.0
_MALFORMED = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """The transfer broke off; what has arrived is good, and another try may bring the rest."""


@dataclass(frozen=True)
class Credentials:
    """What VoxCeleb's servers ask for; never shown, never written, never sent to other servers."""

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def request_of(self, remote: Remote) -> "tuple[str, tuple[str, str] | _BearerToken | None]":
        """The address and authentication of a request; without any, ~/.netrc counts."""
        if remote.host != "voxceleb":
            return remote.url, None
        if "{token}" in remote.url:
            if not self.token:
                raise DownloadError(
                    f"The address of {remote.name} holds {{token}}: set SSLSV_VOXCELEB_TOKEN to yours."
                )
            return remote.url.replace("{token}", self.token), None
        if self.token:
            return remote.url, _BearerToken(self.token)
        return remote.url, (self.user, self.password or "") if self.user else None


class _BearerToken(requests.auth.AuthBase):
    """A token as requests wants it: from a header alone, ~/.netrc would replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def download(
    remote: Remote,
    folder: Path,
    credentials: Credentials,
    add_progress: Callable[[int], None],
    *,
    tries: int = 6,
    first_pause_seconds: float = 1.0,
) -> Path:
    """Bring a file into a folder and return its path; `add_progress` hears of every chunk's bytes.

    A connection that breaks is taken up again, `tries` times without a byte between, with pauses that double.
    Raises DownloadError when the server refuses, the disk is full or the md5 is another: whatever has arrived
    stays, and the next call goes on from it.
    """
    target = folder / remote.name
    failures = 0
    with PartialFile(target) as partial:
        while True:
            size_before = partial.size
            try:
                _receive(remote, credentials, partial, add_progress)
                break
            except _MALFORMED:
                raise DownloadError(
                    f"The address of {remote.name} is none that can be asked. {_way_on(remote)}"
                ) from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, _Interrupted) as error:
                failures = 1 if partial.size > size_before else failures + 1
                if failures >= tries:
                    came = (
                        f"broke off {tries} times ({_reason(error)}); the "
                        f"{readable_bytes(partial.size)} that came are kept: the same command goes on."
                        if partial.size
                        else f"can't be had, after {tries} tries ({_reason(error)} at {_place(remote)})."
                    )
                    # The cause may hold the address with a token.
                    raise DownloadError(f"{remote.name} {came} {_way_on(remote)}") from None
                time.sleep(first_pause_seconds * 2 ** (failures - 1))
        if remote.md5 is not None and partial.md5 != remote.md5:
            found, bad = partial.md5, partial.reject()
            raise DownloadError(
                f"{remote.name} has the md5 {found}, expected {remote.md5}: damaged on the way, or the "
                f"server has another version. It is kept as {bad}; the same command downloads it anew."
            )
        partial.finish(target)
    return target


def size_on_server(remote: Remote, credentials: Credentials) -> int | None:
    """Bytes of a file as its server states them, None where it does not."""
    try:
        url, auth = credentials.request_of(remote)
        headers = {"Accept-Encoding": "identity"}
        answer = requests.head(
            url, headers=headers, auth=auth, allow_redirects=True, timeout=_SECONDS_TO_CONNECT
        )
    except requests.RequestException:
        return None
    length = answer.headers.get("Content-Length", "")
    return int(length) if answer.ok and length.isdigit() else None


def _receive(
    remote: Remote, credentials: Credentials, partial: PartialFile, add_progress: Callable[[int], None]
) -> None:
    url, auth = credentials.request_of(remote)
    headers = {"Accept-Encoding": "identity"}  # positions in a Range are those of the file itself
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        if partial.version:
            headers["If-Range"] = partial.version
    timeout = (_SECONDS_TO_CONNECT, _SECONDS_OF_SILENCE)
    with requests.get(url, headers=headers, auth=auth, stream=True, timeout=timeout) as answer:
        total = _prepare(remote, answer, partial)
        while total is None or partial.size < total:
            chunk = answer.raw.read(_CHUNK, decode_content=False)
            if not chunk:
                break
            partial.append(chunk)
            add_progress(len(chunk))
    if total is not None and partial.size != total:
        raise _Interrupted(f"{partial.size} of {total} bytes came")


def _prepare(remote: Remote, answer: requests.Response, partial: PartialFile) -> int | None:
    """Judge an answer, begin anew where it is not the rest of what is there; returns the whole's size."""
    if answer.status_code == 416:  # nothing behind what is there: complete, or another file
        if answer.headers.get("Content-Range", "").removeprefix("bytes */") == str(partial.size):
            return partial.size
        partial.begin(None)
        raise _Interrupted("the file on the server has changed")
    if answer.status_code in _TRY_AGAIN:
        raise _Interrupted(f"the server answers {answer.status_code}")
    if answer.status_code not in (200, 206):
        raise DownloadError(_refusal(remote, answer.status_code))
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(f"{_place(remote)} sent a web page in place of {remote.name}. {_way_on(remote)}")
    if answer.status_code == 206:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(partial.size):
            partial.begin(None)
            raise _Interrupted("the server sent another range than asked for")
        return int(total) if total.isdigit() else None
    etag = answer.headers.get("ETag", "")
    # A weak ETag (W/...) may not stand in If-Range.
    version = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
    partial.begin(version)
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _refusal(remote: Remote, status: int) -> str:
    meaning = {
        401: "asks for a password or token",
        403: "refuses",
        404: "has no such file",
        410: "has it no more",
    }
    return (
        f"{_place(remote)} {meaning.get(status, 'refuses')} ({status}) for {remote.name}. {_way_on(remote)}"
    )


def _place(remote: Remote) -> str:
    # Not the whole address: a user and password may stand before the host.
    return urlsplit(remote.url).netloc.rpartition("@")[2] or "The server"


def _way_on(remote: Remote) -> str:
    return f"{HOW_TO_GET[remote.host]}. With archives or folders that you have already: --from DIR."


def _reason(error: Exception) -> str:
    if isinstance(error, _Interrupted):
        return str(error)
    return "no answer in time" if isinstance(error, requests.Timeout) else "no connection"
