from sslsv.project import FOLDER
from sslsv.search.request import describe_request
from sslsv.search.space import load_space
from sslsv.search.trial_settings import base_config
from sslsv.tune import parse_arguments


def test_describe_request__a_space_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = parse_arguments(["tune_spaces/demo.py", "--plan"])
    space = load_space(options.space)
    request = describe_request(space, base_config(space, []), options, (4, 8, 12))
    assert request["space"] == (FOLDER / "tune_spaces/demo.py").read_text()
    assert request["space_file"] == "tune_spaces/demo.py"
