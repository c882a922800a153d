import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sslsv.prepare_data.download import Credentials, download, size_on_server
from sslsv.prepare_data.partial_file import DownloadError, PartialFile
from sslsv.prepare_data.sources import Remote
from tests.prepare_data.corpus_server import Server, md5, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
NAME = "vox1_test_wav.zip"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({NAME: CONTENT}) as running:
        yield running


def fetch(server: Server, folder: Path, **options: object) -> Path:
    remote = Remote(NAME, f"{server.url}/{NAME}", options.pop("md5", md5(CONTENT)), "voxceleb")  # type: ignore[arg-type]
    credentials = options.pop("credentials", Credentials())
    return download(remote, folder, credentials, lambda _: None, first_pause_seconds=0.01, **options)  # type: ignore[arg-type]


def test_download__goes_on_by_itself_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.break_after[NAME] = [1_000_000, 0, 700_000]
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.sent[NAME] == len(CONTENT)
    assert server.requests[-1][1]["If-Range"] == f'"{md5(CONTENT)}"'
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_download__continues_an_earlier_run_without_fetching_twice(server: Server, tmp_path: Path) -> None:
    server.break_after[NAME] = [1_200_000, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off 3 times .*; the 1.2 MB that came are kept"):
        fetch(server, tmp_path, tries=3)
    assert (tmp_path / f"{NAME}.part").stat().st_size == 1_200_000
    assert not (tmp_path / NAME).exists()
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert server.sent[NAME] == len(CONTENT)


def test_download__that_stopped_at_the_last_byte_is_finished_without_another(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert NAME not in server.sent


def test_download__begins_anew_when_the_server_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.knows_range = False
    server.break_after[NAME] = [500_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.sent[NAME] == len(CONTENT) + 500_000


def test_download__begins_anew_when_the_file_has_changed(server: Server, tmp_path: Path) -> None:
    server.break_after[NAME] = [500_000, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch(server, tmp_path, tries=2)
    other = CONTENT[::-1]
    server.files[NAME] = other
    assert fetch(server, tmp_path, md5=md5(other)).read_bytes() == other


def test_download__tries_again_when_the_server_is_busy(server: Server, tmp_path: Path) -> None:
    server.statuses[NAME] = 503
    threading.Timer(0.2, server.statuses.clear).start()
    assert fetch(server, tmp_path, tries=9).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/x",
        "http://nowhere.invalid/x",
        "{server}/busy",
        "http://[::/x",
        "http://a b/x",
        "x",
    ],
)
def test_download__dead_link_says_how_to_go_on(server: Server, tmp_path: Path, address: str) -> None:
    server.statuses["busy"] = 503
    remote = Remote(NAME, address.replace("{server}", server.url), None, "voxceleb")
    with pytest.raises(DownloadError, match=rf"{NAME} .*Access to VoxCeleb .*https://mm.kaist.*--from DIR"):
        download(remote, tmp_path, Credentials(), lambda _: None, tries=2, first_pause_seconds=0.01)


def test_download__malformed_address_is_not_tried_again(tmp_path: Path) -> None:
    remote = Remote(NAME, "ftp://127.0.0.1/x", None, "voxceleb")
    with pytest.raises(DownloadError, match="is none that can be asked"):
        download(remote, tmp_path, Credentials(), lambda _: None, tries=2, first_pause_seconds=3)


def test_download__keeps_what_has_another_md5_and_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=rf"has the md5 {md5(CONTENT)}, expected {'0' * 32}: .* kept as .*\.bad"
    ):
        fetch(server, tmp_path, md5="0" * 32)
    assert (tmp_path / f"{NAME}.bad").read_bytes() == CONTENT
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "asks for a password or token"),
        (403, "refuses"),
        (404, "has no such file"),
        (410, "has it no more"),
    ],
)
def test_download__refused_says_where_access_is_requested(
    server: Server, tmp_path: Path, status: int, sentence: str
) -> None:
    server.statuses[NAME] = status
    with pytest.raises(
        DownloadError, match=rf"{sentence} \({status}\) for {NAME}.*https://mm.kaist.*--from DIR"
    ):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_download__sends_secrets_to_voxceleb_alone_and_never_shows_them(
    server: Server, tmp_path: Path
) -> None:
    server.password = "Bearer s3cret"
    secret = Credentials(token="s3cret")
    assert fetch(server, tmp_path / ".", credentials=secret).exists()
    server.password = None
    other = Remote(NAME, f"{server.url}/{NAME}", None, "openslr")
    (tmp_path / "other").mkdir()
    download(other, tmp_path / "other", Credentials("u", "p", "s3cret"), lambda _: None)
    assert "Authorization" not in server.requests[-1][1]
    assert "s3cret" not in repr(secret)


def test_download__fills_a_token_into_the_address_and_keeps_it_out_of_errors(
    server: Server, tmp_path: Path
) -> None:
    remote = Remote(NAME, f"{server.url}/get?key={{token}}&file={NAME}", None, "voxceleb")
    server.statuses["get"] = 404
    with pytest.raises(DownloadError) as caught:
        download(remote, tmp_path, Credentials(token="s3cret"), lambda _: None)
    assert server.requests[-1][0] == f"/get?key=s3cret&file={NAME}"
    assert "s3cret" not in str(caught.value)
    with pytest.raises(DownloadError, match="SSLSV_VOXCELEB_TOKEN"):
        download(remote, tmp_path, Credentials(), lambda _: None)
    dead = Remote(NAME, "http://127.0.0.1:9/{token}", None, "voxceleb")
    with pytest.raises(DownloadError, match="no connection") as caught:
        download(dead, tmp_path, Credentials(token="s3cret"), lambda _: None, tries=1)
    assert "s3cret" not in str(caught.value)
    assert not any("s3cret" in path.read_text(errors="replace") for path in tmp_path.iterdir())


def write_netrc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


def test_download__uses_netrc_when_no_password_is_given(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_netrc(tmp_path, monkeypatch)
    server.password = "Basic bWU6aGlkZGVu"
    assert fetch(server, tmp_path).exists()


def test_download__token_goes_before_netrc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_netrc(tmp_path, monkeypatch)
    server.password = "Bearer s3cret"
    remote = Remote(NAME, f"{server.url}/{NAME}", None, "voxceleb")
    assert size_on_server(remote, Credentials(token="s3cret")) == len(CONTENT)
    assert fetch(server, tmp_path, credentials=Credentials(token="s3cret")).exists()


def test_download__stops_with_a_sentence_when_the_disk_is_full_and_goes_on_later(
    server: Server, tmp_path: Path
) -> None:
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from sslsv.prepare_data.download import Credentials, download\n"
        "from sslsv.prepare_data.sources import Remote\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        f"remote = Remote({NAME!r}, '{server.url}/{NAME}', None, 'voxceleb')\n"
        "try: download(remote, Path(sys.argv[1]), Credentials(), lambda _: None)\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert f"is full after 1.05 MB of {NAME}, which are kept: make room" in done.stdout
    arrived = (tmp_path / f"{NAME}.part").stat().st_size
    sent_before = server.sent[NAME]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.sent[NAME] - sent_before == len(CONTENT) - arrived


def test_download__refuses_a_second_process_on_the_same_file(server: Server, tmp_path: Path) -> None:
    with (
        PartialFile(tmp_path / NAME),
        pytest.raises(DownloadError, match="Another process is downloading"),
    ):
        fetch(server, tmp_path)


def test_size_on_server__is_none_where_unknown(server: Server) -> None:
    assert size_on_server(Remote(NAME, f"{server.url}/{NAME}", None, "openslr"), Credentials()) == len(
        CONTENT
    )
    assert size_on_server(Remote("x", f"{server.url}/x", None, "openslr"), Credentials()) is None
    assert size_on_server(Remote("x", "http://127.0.0.1:9/x", None, "openslr"), Credentials()) is None
