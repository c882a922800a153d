import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sslsv import __version__
from sslsv.__main__ import commands, main

ROOT = Path(__file__).resolve().parents[1]


def test_main__alone_lists_every_command_with_what_it_does(capsys) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert {"train", "tune", "evaluate", "verify", "embed", "export", "prepare_data"} <= commands().keys()
    assert re.search(r"^  train +Train a model$", listed, re.MULTILINE)


def test_main__version_and_a_name_that_is_no_command(capsys) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"sslsv {__version__}\n"
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: 'trian' is no command; did you mean 'train'?\n"


@pytest.mark.parametrize("name", commands())
def test_main__gives_a_command_its_arguments(name, capsys) -> None:
    with pytest.raises(SystemExit, match="0") if name != "prepare_data" else pytest.MonkeyPatch.context():
        assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: sslsv {name}")


def test_main__imports_no_torch_and_no_ray_to_list_commands() -> None:
    program = "import sys; from sslsv.__main__ import main; main([]); sys.exit(bool({'torch', 'ray'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


def test_commands__can_be_run_by_their_path_too(tmp_path) -> None:
    command = [sys.executable, ROOT / "sslsv" / "profile.py", "--help"]  # also a name in Python's library
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m sslsv.profile "), done.stderr


FAKE_PIP = """
import sys
print("Collecting torch")
print("  Downloading torch-2.9.0-cp311-manylinux.whl (100.0 MB)")
for done in (0, 50_000_000, 100_000_000):
    print(f"Progress {done} of 100000000")
print("Installing collected packages: torch, numpy")
print("ERROR: no space", file=sys.stderr)
sys.exit(3)
"""


def test_install__says_how_far_pip_is_and_fails_as_it_does(tmp_path) -> None:
    (tmp_path / "pip.py").write_text(FAKE_PIP)
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "install.py", "-r", "requirements.txt"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and "ERROR: no space" in done.stderr
    messages = [line.split("s  ")[1] for line in done.stdout.splitlines()]
    assert messages == ["download 1: torch, 0 of 100 MB", "unpacked 0 of 2 packages"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install the wheel of this folder into an environment that uses the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).is_file(), sources.stdout.splitlines()):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, folder / "source"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "rest.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    (wheel,) = folder.glob("sslsv_ray-*.whl")
    subprocess.run([*pip, "--python", folder / "venv/bin/python", "install", "--no-deps", wheel], check=True)
    return folder / "venv" / "bin"


def in_empty_folder(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{installed}:{environment['PATH']}", "RAY_ADDRESS": "local"}
    return subprocess.run(
        ["sslsv", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_wheel__lists_commands_and_finds_recipes_and_spaces_in_any_folder(installed, tmp_path) -> None:
    done = in_empty_folder(installed, tmp_path, "--version")
    assert done.stdout == f"sslsv {__version__}\n"
    done = in_empty_folder(installed, tmp_path, "train", "configs/ecapa/simclr.yml")
    assert done.returncode == 2 and "voxceleb2_train_list does not exist" in done.stderr
    assert "configs/ecapa/simclr.yml is not in this folder; taken from the installed sslsv: " in done.stderr
    done = in_empty_folder(installed, tmp_path, "tune", "tune_spaces/margins/simclr.py", "--plan")
    assert done.returncode == 2 and "voxceleb2_train_list does not exist" in done.stderr
    done = in_empty_folder(installed, tmp_path, "train", "configs/simcrl.yml")
    assert done.returncode == 2 and "did you mean" in done.stderr and "simclr.yml" in done.stderr


@pytest.mark.slow
def test_wheel__trains_the_demo_in_an_empty_folder(installed, tmp_path) -> None:
    done = in_empty_folder(installed, tmp_path, "prepare_data", "demo", "data/demo", "--speakers", "20")
    assert done.returncode == 0, done.stderr
    done = in_empty_folder(installed, tmp_path, "train", "configs/demo.yml", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/demo/report.html").is_file()
