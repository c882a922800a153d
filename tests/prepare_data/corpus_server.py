"""Provide small archives with the real structure, and an HTTP server that supports Range and can hang up."""

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import soundfile

from sslsv.prepare_data.download import SOURCES
from sslsv.settings import parse_yaml
from tests import codecs

SECONDS = 1.2


def speech(seed: int, seconds: float = SECONDS) -> npt.NDArray[np.float32]:
    return np.float32(1 + seed / 2000) * codecs.speech(seconds)


def wav(samples: npt.NDArray[np.float32], rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def m4a(samples: npt.NDArray[np.float32]) -> bytes:
    """Return AAC in an MP4 container, as in VoxCeleb2."""
    with TemporaryDirectory() as folder:
        return codecs.write_codec(Path(folder), "a.m4a", samples).read_bytes()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parts_of(content: bytes, stem: str, count: int) -> dict[str, bytes]:
    step = -(-len(content) // count)
    return {f"{stem}_parta{'abcdefgh'[i]}": content[i * step : (i + 1) * step] for i in range(count)}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def voxceleb1_files() -> dict[str, bytes]:
    speakers = [f"id1000{i}" for i in range(1, 7)]
    return {
        f"wav/{speaker}/video{video}/0000{n}.wav": wav(speech(100 * s + 10 * video + n))
        for s, speaker in enumerate(speakers)
        for video in (1, 2)
        for n in (1, 2)
    }


def voxceleb2_files() -> dict[str, bytes]:
    return {
        f"dev/aac/id0001{s}/video{video}/00001.m4a": m4a(speech(1000 + 10 * s + video))
        for s in range(6)
        for video in (1, 2)
    }


def everything() -> dict[str, bytes]:
    """Return every file of the servers by name, with the real structure and a few recordings each."""
    test = {
        f"wav/{speaker}/v/0000{n}.wav": wav(speech(n)) for speaker in ("id10270", "id10271") for n in (1, 2)
    }
    trials = b"1 id10270/v/00001.wav id10270/v/00002.wav\n0 id10270/v/00001.wav id10271/v/00001.wav\n"
    musan = {
        "musan/noise/free-sound/noise-free-sound-0000.wav": wav(speech(1, 3.0)),
        "musan/music/fma/music-fma-0001.wav": wav(speech(2, 17.5)),
        "musan/speech/librivox/speech-librivox-0002.wav": wav(speech(3, 16.0)),
        "musan/README": b"text",
    }
    room = "RIRS_NOISES/simulated_rirs/{}room/Room001/Room001-0000{}.wav"
    sizes = ("small", "medium", "large")
    rooms = {room.format(size, n): wav(speech(n, 0.1)) for size in sizes for n in (1, 2)}
    rooms["RIRS_NOISES/real_rirs_isotropic_noises/x.wav"] = wav(speech(4))
    return {
        **parts_of(zipped(voxceleb1_files()), "vox1_dev_wav", 4),
        "vox1_test_wav.zip": zipped(test),
        **parts_of(zipped(voxceleb2_files()), "vox2_dev_aac", 8),
        "musan.tar.gz": tar_gz(musan),
        "rirs_noises.zip": zipped(rooms),
        **dict.fromkeys(("veri_test2.txt", "list_test_all2.txt", "list_test_hard2.txt"), trials),
    }


@dataclass
class Server:
    """Hold the served files and the behaviour; `sent` counts the bytes sent in bodies for each file."""

    files: dict[str, bytes]
    url: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path with query, headers
    # For each name, the bytes after which the next answers hang up.
    break_after: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    knows_range: bool = True
    password: str | None = None

    def sources(self, file: Path) -> Path:
        """Write a yaml of sources with the address and md5 sums of this server's files."""
        content = parse_yaml(SOURCES.read_text(encoding="utf-8"))
        for each in content["sets"].values():
            each["url"] = f"{self.url}/{{name}}"
            for name, parts in each["archives"].items():
                names = [part for part in parts or [name] if part in self.files]
                each["archives"][name] = {part: md5(self.files[part]) for part in names}
        file.write_text(json.dumps(content))
        return file


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve the files on a port of this machine."""
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.split("/")[-1].split("?")[0]
            server.requests.append((self.path, dict(self.headers)))
            content = server.files.get(name)
            status = server.statuses.get(name, 200 if content is not None else 404)
            if server.password is not None and server.password not in str(self.headers.get("Authorization")):
                status = 401
            if status != 200 or content is None:
                return self.begin(status, 0)
            byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(byte_range[1]) if byte_range and server.knows_range else 0
            if start >= len(content):
                return self.begin(416, 0, f"bytes */{len(content)}")
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.begin(206 if start else 200, len(content) - start, span if start else "")
            limits = server.break_after.get(name, [])
            body = content[start:][: limits.pop(0) if limits else None]
            self.wfile.write(body)
            server.sent[name] = server.sent.get(name, 0) + len(body)
            self.close_connection = start + len(body) < len(content)

        def begin(self, status: int, length: int, span: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            if span:
                self.send_header("Content-Range", span)
            self.end_headers()

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def tree(root: Path) -> list[str]:
    """Return all files below a folder, sorted, without archives and hidden files."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith("archives/") and "/." not in f"/{path}")
