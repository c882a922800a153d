import pytest

from sslsv.settings import ConfigError, dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("-2.", -2.0), ("12", 12), ("+3", 3), ("007", 7), ("1_000", "1_000"),
        ("true", True), ("False", False), ("yes", "yes"), ("off", "off"), ("null", None), ("~", None), ("", None),
        ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("'3'", "3"), ("[1, a]", [1, "a"]), ("e5", "e5"), (".", "."),
    ],
)  # fmt: skip
def test_parse_yaml__reads_scalars_as_version_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_parse_yaml__own_keys_win_over_merged_ones_at_any_depth() -> None:
    text = "base: &base {x: 1, y: 1}\ndeep: {inner: &inner {<<: *base, x: 2}}\nshallow: {<<: *inner, y: 3}"
    parsed = parse_yaml(text)
    assert parsed["deep"]["inner"] == {"x": 2, "y": 1}
    assert parsed["shallow"] == {"x": 2, "y": 3}


def test_parse_yaml__of_several_merged_mappings_the_first_wins() -> None:
    text = "a: &a {name: 1, one: 1}\nb: &b {name: 2, two: 2}\nboth: {<<: [*a, *b], two: 3}"
    assert parse_yaml(text)["both"] == {"name": 1, "one": 1, "two": 3}
    with pytest.raises(ConfigError, match="<< takes a mapping, or a list of mappings"):
        parse_yaml("both: {<<: [1]}")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "a: *nothing", "a: 1\n---\nb: 2", "\x00"])
def test_parse_yaml__tells_mistakes_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="^the yaml is broken") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["1e-3", "on", "null", "2024-01-01", "1:30", "", "a: b", 1e-20, 1e30, 3, None, [[1], []]]
)
def test_dump_yaml__reads_back_equal(value: object) -> None:
    read = parse_yaml(dump_yaml({"key": value}))["key"]
    assert read == value
    assert type(read) is type(value)
