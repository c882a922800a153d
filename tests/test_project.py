from pathlib import Path

from sslsv.config import load_config
from sslsv.project import FOLDER, locate


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
    assert locate("configs/no_such.yml") == Path("configs/no_such.yml")
    assert locate("/configs/simclr.yml") == Path("/configs/simclr.yml")
