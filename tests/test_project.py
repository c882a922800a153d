from pathlib import Path

import pytest

from sslsv.config import ConfigError, load_config
from sslsv.settings import FOLDER, locate


def test_locate__what_is_here_comes_first_then_the_projects_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("configs/simclr.yml") == FOLDER / "configs/simclr.yml"
    assert load_config("configs/simclr.yml").run.name == "simclr"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/simclr.yml").write_text("seed: 3\n")
    assert locate("configs/simclr.yml") == Path("configs/simclr.yml")
    assert load_config("configs/simclr.yml").seed == 3


def test_locate__what_is_nowhere_stays_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("no_such.yml", "no_such/simclr.yml", "/configs/simclr.yml"):
        assert locate(path) == Path(path)
    (tmp_path / "configs").mkdir()
    assert locate("configs/no_such.yml") == Path("configs/no_such.yml")


def test_locate__a_wrong_name_in_a_folder_of_the_project_is_told_beside_the_right_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"configs/simcrl.yml does not exist; did you mean .*simclr.yml"):
        load_config("configs/simcrl.yml")
