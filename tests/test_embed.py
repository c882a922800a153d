import numpy as np
import pyarrow.parquet
import pytest

from sslsv.data.manifest import read_trials
from sslsv.embed import main
from sslsv.speaker_encoder import SpeakerEncoder


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
    assert capsys.readouterr().out.strip() == str(out)


def test_embed__a_folder_becomes_parquet_and_the_unreadable_are_named(
    small_run, demo_corpus, tmp_path, capsys
):
    paths = read_trials(demo_corpus, "trials").paths[:2]
    for i, path in enumerate(paths):
        (tmp_path / f"{i}.wav").write_bytes((demo_corpus / path).read_bytes())
    (tmp_path / "bad.wav").write_text("no audio")
    assert main([small_run, str(tmp_path), "--out", str(tmp_path / "x.parquet")]) == 1
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert [path.rpartition("/")[2] for path in table["path"].to_pylist()] == ["0.wav", "1.wav"]
    assert len(table["embedding"][0].as_py()) == 16
    assert "skipped" in capsys.readouterr().err


def test_embed__a_single_file(small_run, demo_corpus, tmp_path):
    path = demo_corpus / read_trials(demo_corpus, "trials").paths[0]
    assert main([small_run, str(path), "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["embeddings"].shape == (1, 16)


@pytest.mark.parametrize(
    ("content", "out", "sentence"),
    [
        ("a b c\n", "x.npz", "line 1 has 3 fields"),
        ("a\n\n../b\n", "x.npz", "line 3: the path '../b' has a '..' in it"),
        ("", "x.npz", "it is empty"),
        ("a\n", "x.txt", "must end in .npz or .parquet"),
        ("gone.wav\n", "x.npz", "none of the 1 recordings can be read"),
    ],
)
def test_embed__mistakes_are_told_in_a_sentence(small_run, tmp_path, capsys, content, out, sentence):
    (tmp_path / "list").write_text(content)
    assert main([small_run, str(tmp_path / "list"), "--out", str(tmp_path / out)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_embed__a_list_of_a_packed_corpus_in_object_storage(
    small_run, demo_corpus, packed_demo_corpus, object_storage, tmp_path
):
    corpus, run = object_storage.upload(packed_demo_corpus), object_storage.upload(small_run)
    lists = (f"{corpus}/voxceleb2_train_list", str(demo_corpus / "voxceleb2_train_list"))
    for number, (where, encoder) in enumerate(((corpus, run), (str(demo_corpus), small_run))):
        arguments = [encoder, lists[number], "--root", where, "--out", str(tmp_path / f"{number}.npz")]
        assert main(arguments) == 0
    stored, local = (np.load(tmp_path / f"{number}.npz") for number in (0, 1))
    assert stored["paths"].tolist() == local["paths"].tolist()
    assert np.array_equal(stored["embeddings"], local["embeddings"])
