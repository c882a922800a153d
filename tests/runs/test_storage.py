import os

import pytest

from sslsv.config import ConfigError, load_config
from sslsv.runs.folder import RunFolder
from sslsv.runs.storage import absolute, below, check_place, open_filesystem

WITH_SECRETS = [
    "s3://FAKEID:FAKESECRET@bucket/x",
    "s3://FAKEID:FAKE/SECRET@bucket/x",
    "s3://FAKEID:/FAKE/SECRET@bucket/x?region=y",
    "s3://bucket/x?secret_key=FAKESECRET",
    "s3://bucket/x?region=y&session_token=FAKESECRET",
    "https://user:FAKESECRET@host/x",
]


def test_absolute__paths_are_made_so_and_uris_stay():
    assert absolute("a/b") == os.path.abspath("a/b")
    assert absolute("s3://bucket/a/../b") == "s3://bucket/a/../b"
    assert absolute("file:///a/b") == "/a/b"


def test_below__options_stay_at_the_end():
    assert below("s3://b/p?region=x", "a/b") == "s3://b/p/a/b?region=x"
    assert below("/a?b", "c") == "/a?b/c"


@pytest.mark.parametrize("place", WITH_SECRETS)
def test_check_place__refuses_credentials_without_repeating_them(place):
    for refused in (
        lambda: check_place("root", place),
        lambda: RunFolder(place, "run"),
        lambda: load_config("configs/simclr.yml", [f"run.storage={place}"]),
        lambda: load_config("configs/simclr.yml", [f"data.root={place}"]),
        lambda: load_config("configs/simclr.yml", [f"data.train_lists=[list,'{place}']"]),
        lambda: load_config("configs/simclr.yml", [f"evaluation.test=[trials,'{place}']"]),
        lambda: load_config(
            "configs/simclr.yml", ["evaluation.held_out_speakers=0", f"evaluation.validation={place}"]
        ),
    ):
        with pytest.raises(ValueError, match="is a URI with a user, password or key in it") as error:
            refused()
        assert "FAKE" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^data\.root is a URI"):
        load_config("configs/simclr.yml", [f"data.root={place}"])


@pytest.mark.parametrize(
    "place",
    [
        "s3://b/x?region=eu-west-1&endpoint_override=host:1",
        "gs://b/x",
        "s3://b/a@b",
        "a@b",
        "/a:b@c",
        "/a?key=1",
    ],
)
def test_check_place__lets_others_pass(place):
    check_place("root", place)


def test_open_filesystem__of_an_unknown_kind_is_a_sentence():
    with pytest.raises(ValueError, match="ftp://host/x can't be opened: .*give a folder, or a URI"):
        open_filesystem("ftp://host/x")
