import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.encoder_file import EncoderFileError, load_encoder, read_facts, save_encoder

TINY = ThinResNet34.Config(width=2, embedding_dim=8)
ALL_ELSE = ThinResNet34.Config(
    num_mels=30,
    pre_emphasis=0.9,
    width=3,
    stem="3x3",
    stem_time_stride=2,
    last_stride=2,
    has_squeeze_excitation=False,
    pooling="asp",
    embedding_dim=8,
    embedding_batchnorm=True,
)


def trained_encoder(config: ThinResNet34.Config) -> ThinResNet34:
    """An encoder whose running statistics are not those of a new one."""
    torch.manual_seed(3)
    encoder = ThinResNet34(config).train()
    with torch.no_grad():
        encoder(torch.randn(4, 8000))
    return encoder.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, trained_encoder(TINY), {"model": "simclr", "step": "12"})
    return path


@pytest.mark.parametrize("config", [TINY, ALL_ELSE], ids=["default", "all_else"])
def test_load_encoder__embeddings_are_equal_bit_for_bit(tmp_path: Path, config: ThinResNet34.Config) -> None:
    encoder = trained_encoder(config)
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert not loaded.training and loaded.config == config
    waveforms = torch.randn(3, 9000)
    with torch.no_grad():
        assert torch.equal(loaded(waveforms), encoder.to(memory_format=torch.channels_last)(waveforms))


def test_save_encoder__takes_channels_last_weights(tmp_path: Path) -> None:
    encoder = trained_encoder(TINY)
    save_encoder(tmp_path / "e.safetensors", encoder.to(memory_format=torch.channels_last), {})
    for name, weights in load_encoder(tmp_path / "e.safetensors").state_dict().items():
        assert torch.equal(weights, encoder.state_dict()[name])


def test_read_facts__what_was_given_and_what_the_encoder_is(file: Path) -> None:
    facts = read_facts(file)
    assert facts.pop("encoder").startswith('{"name": "thin_resnet34", "num_mels": 40')
    assert facts == {
        "model": "simclr",
        "step": "12",
        "format": "sslsv encoder 1",
        "sample_rate": "16000",
        "embedding_dim": "8",
    }


def test_load_encoder__leaves_the_random_state_alone(file: Path) -> None:
    before = torch.get_rng_state()
    load_encoder(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_load_encoder__imports_nothing_of_the_training(file: Path) -> None:
    program = (
        "import sys; from sslsv.evaluation.encoder_file import load_encoder; "
        f"load_encoder({str(file)!r}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"torch", "safetensors", "sslsv.encoders.thin_resnet34"} <= imported
    assert not imported & {"ray", "pydantic", "yaml", "pyarrow", "wandb", "onnx", "onnxruntime", "matplotlib"}
    own = {name.split(".")[1] for name in imported if name.startswith("sslsv.")}
    assert own == {"encoder_file", "encoders", "modules", "distributed"}


@pytest.mark.parametrize("damage", ["cut", "weights", "text", "empty", "foreign"])
def test_load_encoder__a_damaged_file_is_refused_in_a_sentence(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "weights":
        content[-1000] ^= 1
    if damage == "text":
        content[content.index(b'"12"') + 1] ^= 1  # step 12 becomes step 02
    if damage in ("cut", "empty"):
        del content[-100 if damage == "cut" else 0 :]
    file.write_bytes(b"RIFF and so on, a recording" if damage == "foreign" else content)
    with pytest.raises(EncoderFileError, match=r"encoder\.safetensors is damaged"):
        load_encoder(file)


def test_load_encoder__files_of_other_programs_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / "theirs.safetensors")
    with pytest.raises(EncoderFileError, match="its format is None, not 'sslsv encoder 1'; give a file that"):
        load_encoder(tmp_path / "theirs.safetensors")


def test_load_encoder__an_unknown_encoder_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENCODERS, "thin_resnet34")
    with pytest.raises(EncoderFileError, match="this version of sslsv can't build .*export it again"):
        load_encoder(file)


def test_load_encoder__a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.safetensors"):
        load_encoder(tmp_path / "absent.safetensors")


def test_save_encoder__leaves_nothing_behind_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        save_encoder(tmp_path / "taken", trained_encoder(TINY), {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
