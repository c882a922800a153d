import torch

from sslsv.interruption import Interruption


def test_interruption__alone_it_is_due_as_soon_as_it_is_asked():
    asked: list[str] = []
    interruption = Interruption(lambda: asked[0] if asked else None, torch.device("cpu"))
    assert not interruption.is_due(1)
    asked.append("the machine will go")
    assert interruption.is_due(2) and interruption.reason() == "the machine will go"
