import pytest

from sslsv.report import main
from sslsv.runs.folder import RunFolder


@pytest.mark.parametrize("kind", ["run", "sweep", "loop"])
def test_main__writes_the_report_of_what_is_there_and_says_where(tmp_path, capsys, kind):
    folder = RunFolder(str(tmp_path), "some")
    if kind == "run":
        folder.write("config.yml", b"seed: 1\n")
    elif kind == "loop":
        folder.write("loop.yml", b"seed: 1\n")
    else:
        folder.write_json("sweep.json", {"space_file": "a.py", "space": "", "rungs": [1]})
    assert main([str(tmp_path / "some")]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path}/some/report.html"
    assert folder.has("report.html")


def test_main__a_folder_that_is_none_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "is no run, sweep or loop; give a folder such as" in capsys.readouterr().err
