import pytest

from sslsv.encoders.campplus import CAMPlusPlus
from tests.encoders.peers import count_parameters


@pytest.mark.parametrize(("embedding_dim", "parameters"), [(512, 7_176_224), (192, 6_848_544)])
def test_campplus__has_the_published_number_of_parameters(embedding_dim: int, parameters: int) -> None:
    assert count_parameters(CAMPlusPlus, embedding_dim=embedding_dim) == parameters
