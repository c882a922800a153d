"""Check that no content read from a file is executed; see SECURITY.md."""

import ast
import hashlib
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sslsv.config import load_config
from sslsv.evaluation.embedding import EmbeddingStore
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.checkpoint import decode_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import ConfigError

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "sslsv").rglob("*.py"))
RUNS_CODE_BY_DESIGN = {
    "sslsv/registry.py": {"exec(", "compile("},  # runs settings of the package's own files
    "sslsv/search/space.py": {"run_path("},  # a search space is a Python file of the user
}
# Patterns of calls that may run code from a file, for sources with one statement per line.
EXECUTING = [
    r"\b(?:import|from) (?:pickle|cPickle|cloudpickle|dill|joblib|marshal|shelve)\b",
    r"(?<![.\w])(?:eval|exec|compile)\(",
    r"\b(?:exec_module|run_path|run_module|system|popen|getoutput|(?:unsafe|full)_load(?:_all)?)\(",
    r"\btorch\.load\((?!.*weights_only=True)",
    r"\bjit\.load\(",
    r"\byaml\.load\((?!.*SafeLoader)",
    r"\b(?:allow_pickle|shell)=(?!False)",
]


def executing_parts(source: str) -> set[str]:
    lines = ast.unparse(ast.parse(source))
    return {found for pattern in EXECUTING for found in re.findall(pattern, lines)}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_sources__execute_nothing_that_they_read(file: Path) -> None:
    allowed = RUNS_CODE_BY_DESIGN.get(file.relative_to(ROOT).as_posix(), set())
    assert executing_parts(file.read_text(encoding="utf-8")) == allowed


SOURCES_THAT_EXECUTE = """
import pickle
from cloudpickle import loads
torch.load(f)
torch.load(f, weights_only=flag)
torch.jit.load(f)
yaml.load(text, Loader=yaml.FullLoader)
yaml.unsafe_load(text)
np.load(f, allow_pickle=True)
eval(text)
exec(text)
os.system(text)
subprocess.run(text, shell=True)
"""


@pytest.mark.parametrize("source", SOURCES_THAT_EXECUTE.split("\n")[1:-1])
def test_executing_parts__finds_each_kind(source: str) -> None:
    assert executing_parts(source)


class Bomb:
    """Create a file when unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


def test_checkpoint__of_a_sound_name_does_not_execute_what_is_in_it(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"step": 1, "config": "", "model": {"weight": Bomb(mark)}}, buffer)
    content = buffer.getvalue()
    name = f"step_00000001-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    with pytest.raises(pickle.UnpicklingError):
        decode_checkpoint(content, name, name)
    assert not mark.exists()
    torch.load(io.BytesIO(content), weights_only=False)  # the test can fail: this executes it
    assert mark.exists()


def test_config__tags_of_python_objects_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    settings = tmp_path / "settings.yml"
    settings.write_text(
        f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    )
    with pytest.raises(ConfigError, match="python/object/apply"):
        load_config(settings)
    assert not mark.exists()


def test_embeddings__kept_by_a_stranger_execute_nothing(tmp_path: Path, small_run: str) -> None:
    encoder, folder = SpeakerEncoder.load(small_run), RunFolder(str(tmp_path), "run")
    file = EmbeddingStore(encoder, folder, pytest.fail).file
    buffer, mark = io.BytesIO(), tmp_path / "executed"
    bombs = np.array([Bomb(mark)], dtype=object)
    np.savez(buffer, paths=bombs, stamps=np.zeros((1, 2)), embeddings=np.zeros((1, 2)))
    folder.write(file, buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        EmbeddingStore(encoder, folder, pytest.fail)
    assert not mark.exists()
