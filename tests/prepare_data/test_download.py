import json
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest

from sslsv.prepare_data.download import SOURCES, Remote, download, read_sources
from sslsv.settings import parse_yaml
from tests.prepare_data.corpus_server import Server, md5, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
NAME = "vox1_test_wav.zip"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("sslsv.prepare_data.download._FIRST_PAUSE_SECONDS", 0.01)
    for name in ("USER", "PASSWORD"):
        monkeypatch.delenv(f"SSLSV_VOXCELEB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    with serving({NAME: CONTENT}) as running:
        yield running


def fetch(url: str, folder: Path, sum_: str | None = md5(CONTENT), takes_secrets: bool = True) -> Path:
    how_to_get = "Access is requested at https://x"
    return download(Remote(NAME, f"{url}/{NAME}", sum_, takes_secrets, how_to_get), folder)


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


def test_download__goes_on_by_itself_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.break_after[NAME] = [1_000_000, 0, 700_000]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.sent[NAME] == len(CONTENT)
    assert files_in(tmp_path) == [NAME]


def test_download__continues_an_earlier_run_without_fetching_twice(server: Server, tmp_path: Path) -> None:
    server.break_after[NAME] = [1_200_000, *[0] * 6]
    with pytest.raises(OSError, match=r"broke off 6 times .*; the 1.20MB received are kept"):
        fetch(server.url, tmp_path)
    assert (tmp_path / f"{NAME}.part").stat().st_size == 1_200_000
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.sent[NAME] == len(CONTENT)


def test_download__that_stopped_at_the_last_byte_is_finished_without_another(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert NAME not in server.sent


def test_download__begins_anew_when_the_server_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.knows_range = False
    server.break_after[NAME] = [500_000]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_download__tries_again_when_the_server_is_busy(server: Server, tmp_path: Path) -> None:
    server.statuses[NAME] = 503
    threading.Timer(0.2, server.statuses.clear).start()
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "ftp://x"])
def test_download__dead_link_says_how_to_go_on(server: Server, tmp_path: Path, address: str) -> None:
    with pytest.raises(OSError, match=rf"{NAME} broke off 6 times .*Access is .*--from DIR"):
        fetch(address, tmp_path)


def test_download__keeps_what_has_another_md5_and_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"has the md5 {md5(CONTENT)}, expected 0{{32}}: .*\.bad; the same"):
        fetch(server.url, tmp_path, "0" * 32)
    assert (tmp_path / f"{NAME}.bad").read_bytes() == CONTENT
    assert fetch(server.url, tmp_path).exists()


@pytest.mark.parametrize(("status", "reason"), [(401, "Unauthorized"), (404, "Not Found"), (410, "Gone")])
def test_download__refused_is_not_tried_again(
    server: Server, tmp_path: Path, status: int, reason: str
) -> None:
    server.statuses[NAME] = status
    with pytest.raises(OSError, match=rf"refuses {NAME}: {status} {reason}\. Access .*--from DIR"):
        fetch(server.url, tmp_path)
    assert len(server.requests) == 1


def test_download__secrets_go_to_voxceleb_alone_and_netrc_counts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLSV_VOXCELEB_USER", "me")
    monkeypatch.setenv("SSLSV_VOXCELEB_PASSWORD", "hidden")
    server.password = "Basic bWU6aGlkZGVu"
    fetch(server.url, tmp_path)
    server.password = None
    fetch(server.url, tmp_path, takes_secrets=False)
    assert "Authorization" not in server.requests[-1][1]
    monkeypatch.delenv("SSLSV_VOXCELEB_USER")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.password = "Basic bWU6aGlkZGVu"
    assert fetch(server.url, tmp_path).exists()


def test_download__refuses_a_second_process(server: Server, tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(OSError, match="Another process is downloading"),
    ):
        fetch(server.url, tmp_path)


def test_read_sources__have_an_md5_for_every_part_of_every_archive() -> None:
    archives = [read_sources(name) for name in ("voxceleb1", "voxceleb2", "musan", "rirs")]
    sums = [part.md5 for each in archives for parts in each.values() for part in parts]
    assert len(sums) == 4 + 1 + 8 + 1 + 1 and all(len(str(each)) == 32 for each in sums)
    (musan,) = read_sources("musan")["musan.tar.gz"]
    assert musan.url == "https://www.openslr.org/resources/17/musan.tar.gz"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [("url", "host/{name}", "must begin with http"), ("archives", 3, "has another form than")],
)
def test_read_sources__a_file_of_another_form_is_refused(
    tmp_path: Path, key: str, value: object, sentence: str
) -> None:
    content = parse_yaml(SOURCES.read_text(encoding="utf-8"))
    content["sets"]["musan"][key] = value
    (tmp_path / "mine.yml").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        read_sources("musan", tmp_path / "mine.yml")
