"""Run an S3-compatible server (moto) on loopback in a thread, and record its requests."""

import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

SECRET_KEY = "FAKE/SECRET/storage+key"


@dataclass(frozen=True)
class Request:
    """Hold one request of a client, and the number of content bytes in the answer."""

    method: str
    path: str
    query: str
    span: str | None  # Range header
    num_bytes: int


@dataclass
class ObjectStorage:
    """Hold a bucket; requests for which `refuses(environ)` is true are answered with 403."""

    requests: list[Request] = field(default_factory=list)
    refuses: Callable[[dict[str, Any]], bool] = lambda _: False
    bucket: str = "sslsv-test"

    def __post_init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": "fake-id",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def create_bucket(self) -> None:
        endpoint = self.environment["AWS_ENDPOINT_URL"]
        filesystem = fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
        filesystem.create_dir(self.bucket)

    def folder(self) -> str:
        """Return the URI of a new, empty folder."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex[:8]}"

    def upload(self, folder: os.PathLike[str]) -> str:
        """Upload a local folder and return the URI of the copy."""
        uri = self.folder()
        filesystem, path = fs.FileSystem.from_uri(uri)
        fs.copy_files(os.fspath(folder), path, destination_filesystem=filesystem)
        return uri

    def names(self, uri: str) -> list[str]:
        """Return the sorted names of all objects below a folder, relative to it."""
        filesystem, path = fs.FileSystem.from_uri(uri)
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(entry.path[len(path) + 1 :] for entry in found if entry.type == fs.FileType.File)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if self.refuses(environ):
            length = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"].read(length)
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"]
        body = b"".join(self._moto(environ, start))
        span = environ.get("HTTP_RANGE")
        query = re.sub(r"uploadId=[^&]*", "uploadId", environ.get("QUERY_STRING", ""))
        sent = 0 if environ["REQUEST_METHOD"] == "HEAD" else len(body)
        self.requests.append(Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, span, sent))
        return [body]
