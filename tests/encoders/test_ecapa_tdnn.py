import pytest

from sslsv.encoders.ecapa_tdnn import ECAPATDNN
from tests.encoders.peers import count_parameters

SIZES = [  # num_mels, channels, aggregation_channels, embedding_dim, parameters
    (40, 512, 1536, 512, 7_075_008),
    (80, 512, 1536, 192, 6_194_048),
    (80, 1024, 3072, 192, 20_767_552),
    (80, 1024, 3072, 512, 22_733_952),
    (40, 1024, 3072, 512, 22_529_152),
    (80, 1024, 1536, 512, 15_643_776),
]


@pytest.mark.parametrize(("num_mels", "channels", "aggregation", "dim", "parameters"), SIZES)
def test_ecapa_tdnn__has_the_published_number_of_parameters(
    num_mels: int, channels: int, aggregation: int, dim: int, parameters: int
) -> None:
    sizes = {"channels": channels, "aggregation_channels": aggregation, "embedding_dim": dim}
    assert count_parameters(ECAPATDNN, features={"num_mels": num_mels}, **sizes) == parameters


@pytest.mark.parametrize(
    ("channels", "has_context", "parameters"),
    [(512, False, 5_797_504), (512, True, 6_190_720), (1024, False, 14_263_872), (1024, True, 14_657_088)],
)
def test_ecapa_tdnn__of_wespeaker_has_the_published_number_of_parameters(
    channels: int, has_context: bool, parameters: int
) -> None:
    sizes = {"channels": channels, "aggregation_channels": 1536, "embedding_dim": 192}
    settings = {"form": "wespeaker", "has_global_context": has_context}
    assert count_parameters(ECAPATDNN, **sizes, **settings) == parameters


def test_ecapa_tdnn__variants_of_wespeakers_form_are_refused_in_the_other() -> None:
    with pytest.raises(ValueError, match="are variants of wespeaker's form; set form to wespeaker"):
        ECAPATDNN.Config(has_global_context=False)
