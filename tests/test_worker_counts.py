import pytest

from sslsv.config import Config, ConfigError, apply_overrides, read_config, to_yaml, usable_counts


def test_usable_counts__are_those_in_the_range_that_divide_the_batch():
    assert usable_counts((1, 8), 48, None) == [1, 2, 3, 4, 6, 8]
    assert usable_counts(4, 48, None) == [4]


def test_usable_counts__leave_whole_chunks_to_every_worker():
    assert usable_counts((1, 8), 48, 8) == [1, 2, 3, 6]


def test_workers__a_range_survives_yaml():
    config = apply_overrides(Config(), ["resources.workers=[2,8]"])
    assert config.resources.workers == (2, 8) and read_config(to_yaml(config)) == config
    assert (config.resources.fewest_workers, config.resources.most_workers) == (2, 8)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["resources.workers=[0,2]"], r"workers is \[0, 2\]; it must be 1 or more"),
        (["resources.workers=[4,2]"], r"workers is \[4, 2\]; the fewest come first: \[2, 4\]"),
        (["resources.workers=[1,3]"], "which 3 resources.workers cannot share equally; use 255 or 258"),
        (["resources.workers=[1,2,4]"], "resources.workers"),
        (["resources.workers=many"], "resources.workers is 'many', but it must be a whole number"),
        (
            ["resources.workers=[1,2]", "train.sync_batchnorm=false"],
            "resources.workers is a range and train.sync_batchnorm false",
        ),
    ],
)
def test_workers__what_cannot_share_the_batch_is_a_sentence(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        apply_overrides(Config(), overrides)
