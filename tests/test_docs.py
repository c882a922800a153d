"""Check the documentation: its commands run, quoted messages are the program's, and no page is missing."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sslsv import registry

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)


def program_texts() -> str:
    """Return all string literals of the package, one per line, with `…` for filled-in values."""
    texts = []
    for file in sorted((ROOT / "sslsv").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in texts)


def test_troubleshooting__every_sentence_is_one_of_the_programs() -> None:
    texts = program_texts()
    assert len(SENTENCES) > 15
    for sentence in SENTENCES:
        pattern = ".*".join(map(re.escape, sentence.split("…")))
        assert re.search(pattern, texts), f"nothing in sslsv/ says {sentence!r}"


def test_readme__is_a_page_of_at_most_1200_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs/pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.generated())


def test_site__has_a_page_for_every_method_and_encoder_with_its_settings_and_recipe(pages) -> None:
    assert "| `temperature` | number, > 0 | `0.03` |" in pages["methods/simclr.md"]
    assert "sslsv train configs/simclr.yml" in pages["methods/simclr.md"]
    for folder, package in (("methods", "models"), ("encoders", "encoders")):
        assert {f"{folder}/{name}.md" for name in registry.names(package)} <= pages.keys()
    assert re.search(r"\[`simclr`\].*\| 9.05 \| 6.41 \|", pages["methods/index.md"])


def test_site__settings_say_what_they_mean_and_commands_what_they_take(pages) -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", pages["settings.md"], re.M)
    assert len(rows) > 60 and ("epochs", "passes over the training utterances") in rows
    assert "usage: sslsv train [-h] [--fresh | --extend]" in pages["commands.md"]
    assert "usage: sslsv prepare_data folder" in pages["commands.md"]


def commands_of(page: str) -> list[str]:
    """Return the lines of a page's `sh` blocks, which readers type."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def run_all(commands: list[str], folder: Path) -> None:
    """Run commands with fewer epochs, like a reader with an activated .venv."""
    program = folder / "bin" / "sslsv"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sslsv "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["RAY_ADDRESS"] = "local"
    for command in commands:
        short = f"{command} train.batch_size=8 train.epochs=2" if "sslsv train" in command else command
        done = subprocess.run(
            short, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{short}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_quick_start__its_commands_run(tmp_path) -> None:
    run_all(commands_of("docs/quick_start.md"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/own_data.md", "README.md"])
def test_own_data__the_commands_run_on_a_folder_of_recordings(page, tmp_path, demo_corpus) -> None:
    people = ["anna", "bela", "chen", "dora", "emil", "fatima", "goran", "hana"]
    for person, speaker in zip(people, sorted((demo_corpus / "voxceleb2").iterdir()), strict=True):
        folder = tmp_path / "my" / "recordings" / person
        folder.mkdir(parents=True)
        days = ("monday", "tuesday", "thursday", "friday")
        for day, file in zip(days, sorted(speaker.rglob("*.wav")), strict=True):
            shutil.copy(file, folder / f"{day}.wav")
    commands = [command.replace("/my", str(tmp_path / "my")) for command in commands_of(page)]
    run_all([command for command in commands if not command.startswith("make")], tmp_path)
