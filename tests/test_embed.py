import io
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from sslsv.data.lists import read_trials
from sslsv.embed import main
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.folder import RunFolder
from tests.codecs import speech, write_codec


def test_embed__a_list_becomes_npz_with_speakers(small_run, demo_corpus, tmp_path, capsys):
    lines = (demo_corpus / "voxceleb2_train_list").read_text().splitlines()[:3]
    (tmp_path / "list").write_text("\n".join(lines))
    out = tmp_path / "deep" / "x.npz"
    assert main([small_run, str(tmp_path / "list"), "--root", str(demo_corpus), "--out", str(out)]) == 0
    with np.load(out) as saved:
        assert saved["speakers"].tolist() == [line.split()[0] for line in lines]
        encoder = SpeakerEncoder.load(small_run)
        for path, row in zip(saved["paths"], saved["embeddings"], strict=True):
            np.testing.assert_allclose(row, encoder.embed(demo_corpus / path), rtol=1e-4, atol=1e-5)
    printed = capsys.readouterr().out
    assert re.fullmatch(rf"wrote {out}: 3 embeddings of 16 dimensions, \d\.\d MB, in \d+\.\d s\n", printed)


def test_embed__fused_runs_give_the_mean_of_their_cosines(small_run, demo_corpus, tmp_path):
    paths = read_trials(demo_corpus, "trials").paths[:2]
    (tmp_path / "list").write_text("\n".join(paths))
    out = tmp_path / "x.npz"
    request = [small_run, str(tmp_path / "list"), "--root", str(demo_corpus), "--out", str(out)]
    cosines = []
    last = max(RunFolder.at(small_run).names("checkpoints"))
    for options in ([], ["--checkpoint", "last"], ["--with", f"{small_run}/checkpoints/{last}"]):
        assert main([*request, *options]) == 0
        one, other = np.load(out)["embeddings"].astype(np.float64)
        cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert cosines[2] == pytest.approx((cosines[0] + cosines[1]) / 2, abs=1e-6)
    assert abs(cosines[0] - cosines[1]) > 1e-5


def test_embed__a_folder_becomes_parquet_and_the_unreadable_are_named(
    small_run, demo_corpus, tmp_path, capsys
):
    paths = read_trials(demo_corpus, "trials").paths[:2]
    for i, path in enumerate(paths):
        (tmp_path / f"{i}.wav").write_bytes((demo_corpus / path).read_bytes())
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "notes.txt").write_text("no audio either")
    write_codec(tmp_path, "a.m4a", speech())
    assert main([small_run, str(tmp_path), "--out", str(tmp_path / "x.parquet")]) == 1
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert [path.rpartition("/")[2] for path in table["path"].to_pylist()] == ["0.wav", "1.wav", "a.m4a"]
    assert len(table["embedding"][0].as_py()) == 16
    printed, errors = capsys.readouterr()
    assert "skipped: " in errors
    assert "1 files are left out: they lack the suffix of an audio file (notes.txt)" in errors
    assert "3 embeddings" in printed and "s; 1 skipped" in printed


@pytest.mark.parametrize(
    ("content", "out", "sentence"),
    [
        ("x a.wav b.wav\n", "x.npz", "line 1: the path 'a.wav b.wav' has a blank after the suffix"),
        ("a\n\n../b\n", "x.npz", "line 3: the path '../b' has a '..' in it"),
        ("", "x.npz", "is empty"),
        ("a\n", "x.txt", "must end in .npz or .parquet"),
        ("gone.wav\n", "x.npz", "None of the first 1 recordings of"),
    ],
)
def test_embed__mistakes_are_told_in_a_sentence(small_run, tmp_path, capsys, content, out, sentence):
    (tmp_path / "list").write_text(content)
    assert main([small_run, str(tmp_path / "list"), "--out", str(tmp_path / out)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_embed__a_kaldi_folder_or_trials_are_lists_and_said_to_be_read_so(
    small_run, demo_corpus, tmp_path, capsys
):
    paths = read_trials(demo_corpus, "trials").paths[:2]
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi/wav.scp").write_text("".join(f"{path.replace('/', '-')} {path}\n" for path in paths))
    (tmp_path / "kaldi/utt2spk").write_text("".join(f"{path.replace('/', '-')} ann\n" for path in paths))
    (tmp_path / "mine").write_text(f"{paths[0]} {paths[1]} target\n")
    out = tmp_path / "x.npz"
    for name, speakers, form in (
        ("kaldi", ["ann", "ann"], "a Kaldi folder: 2 recordings"),
        ("mine", ["", ""], "`enrolment test target` lines"),
    ):
        assert main([small_run, str(tmp_path / name), "--root", str(demo_corpus), "--out", str(out)]) == 0
        errors = capsys.readouterr().err
        assert f"{name} is read as {form}" in errors and "left out" not in errors
        assert np.load(out)["paths"].tolist() == paths and np.load(out)["speakers"].tolist() == speakers


@pytest.mark.parametrize("name", [b"Andr\xe9.wav", b""])
def test_embed__a_name_that_is_not_utf8_is_refused_first(tmp_path, capsys, name):
    (tmp_path / os.fsdecode(b"Andr\xe9.wav")).touch()
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    assert main(["no run is looked for", path, "--out", str(tmp_path / "x.parquet")]) == 2
    assert r"Andr\xe9.wav' has a name that is not UTF-8" in capsys.readouterr().err


def test_embed__a_place_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "a.wav").touch()
    out = f"{tmp_path}/a.wav/x.npz"
    assert main(["no run is looked for", str(tmp_path / "a.wav"), "--out", out]) == 2
    assert f"--out is {out}; no file can be written to its folder" in capsys.readouterr().err


def test_embed__writes_into_object_storage(small_run, demo_corpus, object_storage, capsys):
    path = str(demo_corpus / read_trials(demo_corpus, "trials").paths[0])
    bucket = object_storage.folder()
    for name in ("a/y.npz", "a/y.parquet"):
        assert main([small_run, path, "--out", f"{bucket}/{name}"]) == 0
        assert capsys.readouterr().out.startswith(f"wrote {bucket}/{name}: 1 embeddings")
    folder = RunFolder.at(f"{bucket}/a")
    embeddings = np.load(io.BytesIO(folder.read("y.npz")))["embeddings"]
    table = pyarrow.parquet.read_table(pa.BufferReader(folder.read("y.parquet")))
    assert table["embedding"].to_pylist() == embeddings.tolist() and embeddings.shape == (1, 16)
