import os

import pytest

from sslsv.cluster.token import keep_token_private


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def permissions(file):
    return oct(file.stat().st_mode & 0o777)


def test_keep_token_private__one_that_all_can_read_is_closed_and_kept(token_file):
    token_file.parent.mkdir()
    token_file.write_text("a token")
    token_file.chmod(0o644)
    keep_token_private()
    assert permissions(token_file) == "0o600" and token_file.read_text() == "a token"


def test_keep_token_private__one_that_is_closed_is_not_touched(token_file):
    token_file.parent.mkdir()
    token_file.write_text("a token")
    token_file.chmod(0o400)
    os.utime(token_file, (1, 1))
    keep_token_private()
    assert permissions(token_file) == "0o400" and token_file.stat().st_mtime == 1


def test_keep_token_private__a_new_one_is_closed_before_ray_writes_it(token_file):
    keep_token_private()
    assert permissions(token_file) == "0o600" and token_file.read_text() == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_AUTH_TOKEN", "a token"),
        ("RAY_AUTH_TOKEN_PATH", "/run/secrets/token"),
        ("RAY_ADDRESS", "10.0.0.1:6379"),
    ],
)
def test_keep_token_private__makes_no_file_that_ray_does_not_ask_for(token_file, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token_file.parent.exists()


def test_keep_token_private__a_home_that_cannot_hold_it_is_a_sentence(token_file):
    token_file.parent.write_text("no folder")
    with pytest.raises(OSError, match="can't be kept in .*auth_token .*set HOME to a folder"):
        keep_token_private()
