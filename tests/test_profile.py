"""The command as a user gives it."""

import pytest

from sslsv.profile import main

TINY = ["encoder.width=2", "encoder.embedding_dim=16", "train.batch_size=8", "model.crop_seconds=0.5"]


def test_main__refuses_what_cannot_be_profiled_in_a_sentence(demo_corpus, capsys):
    root = f"data.root={demo_corpus}"
    assert main(["configs/demo.yml", root, "train.compile=true"]) == 2
    assert "train.compile=false" in capsys.readouterr().err
    assert main(["configs/demo.yml", root, "--steps", "0"]) == 2
    assert "--steps is 0" in capsys.readouterr().err
    assert main(["configs/demo.yml", "data.root=/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_main__says_where_the_time_goes_and_what_to_change(demo_corpus, ray_session, capsys, workers):
    given = [
        *TINY,
        f"data.root={demo_corpus}",
        "evaluation.held_out_speakers=3",
        f"resources.workers={workers}",
    ]
    assert main(["configs/demo.yml", *given, "--steps", "4"]) == 0
    printed = capsys.readouterr().out
    parts = [float(line.split()[-4]) for line in printed.splitlines() if line.startswith("  ")]
    whole = float(printed.split("a step takes ")[1].split()[0])
    assert sum(parts[:8]) == pytest.approx(whole, abs=0.5)
    assert "bottleneck: " in printed
    communication = next(line for line in printed.splitlines() if "communication" in line)
    assert (float(communication.split()[-4]) > 0) == (workers == 2)
