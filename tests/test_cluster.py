import pytest

from sslsv.capacity import CapacityError
from sslsv.cluster import check_address


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_check_address__a_dead_cluster_is_a_sentence_at_once(address):
    with pytest.raises(CapacityError, match="where no Ray cluster answers .*unset RAY_ADDRESS"):
        check_address(address)


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_check_address__what_names_no_machine_is_left_to_ray(address):
    check_address(address)
