import dataclasses
import subprocess
import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field, ValidationError

from sslsv import registry, settings
from sslsv.settings import (
    FOLDER,
    ConfigError,
    apply_overrides,
    build,
    choice,
    differences,
    section,
    sections_of,
)


@section
class Inner:
    rate: Annotated[float, Field(gt=0, description="steps per second")] = 1.0
    pair: tuple[float, float] = (1.0, 2.0)
    kind: Literal["one", "two"] = "one"
    size: Annotated[int, Field(ge=1, lt=10)] = 3
    power: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.size > self.rate * 5:
            raise ValueError("size is too large; lower it")


@section
class Tree:
    seed: int = 0
    is_on: bool = False
    place: settings.Location = "here"
    note: str | None = None
    inner: Inner = field(default_factory=Inner)
    model: Annotated[Any, choice("models")] = field(default_factory=choice("models", "simclr"))
    chain: tuple[Annotated[Any, choice("models")], ...] = ()
    extra: Annotated[Any, choice("encoders")] | None = None
    workers: int | tuple[Annotated[int, Field(ge=1)], int] = 1


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Tree, settings.parse_yaml(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parse_yaml__reads_version_1_2() -> None:
    found = settings.parse_yaml("[1e-3, 12, 007, yes, on, 1:30, ~, '3', true]")
    assert found == [1e-3, 12, 7, "yes", "on", "1:30", None, "3", True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2", ' at line 2, column 1: found duplicate key "seed"'),
        ("seed: 1\ninner: {rate: 3", " at line 2, column 16: expected ',' or '}', but got '<stream end>'"),
        ("a: !!python/object:os.system {}", " at line 1, column 4: could not determine a constructor"),
        ("\x00", ": unacceptable character"),
    ],
)  # fmt: skip
def test_parse_yaml__names_the_line_of_a_mistake(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.parse_yaml(text)
    assert str(caught.value).startswith("the yaml is broken" + expected)
    assert "\n" not in str(caught.value)


def test_dump_yaml__reads_back_equal() -> None:
    values = ["1e-3", "on", "null", "2024-01-01", "", "a: b", 1e-20, 1e30, 3, None, [[1], []], {"a": [{}]}]
    assert settings.parse_yaml(settings.dump_yaml({"values": values})) == {"values": values}
    assert settings.dump_yaml({"b": (1, 2.0), "a": ({"x": []},)}) == "b: [1, 2.0]\na:\n- x: []\n"


def test_build__types_are_exact_but_whole_numbers_may_be_floats() -> None:
    inner = {"rate": 2, "pair": (np.float64(1), 2)}
    tree = build(Tree, {"seed": np.int64(3), "inner": inner, "model": "vicreg"})
    assert (tree.seed, tree.inner.rate, tree.inner.pair, tree.model.name) == (3, 2.0, (1.0, 2.0), "vicreg")
    assert type(tree.seed) is int and type(tree.inner.rate) is float
    assert build(Tree, settings.parse_yaml("note: 2024-01-01")).note == "2024-01-01"
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [{"seed": "3"}, {"sed": 3}, {"seed": 3.0}, {"inner": {}}])
def test_section__is_checked_wherever_it_is_made(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        Tree(**wrong)


MODELS = ", ".join(map(repr, registry.names("models")))
NO_SECTION = "it is a section of settings: write keys and values below it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {rat: 1}", "inner.rat is not a setting; did you mean inner.rate?"),
        ("temprature: 1", "temprature is not a setting; did you mean model.temperature?"),
        ("inner: {zzzzz: 1, rate: x}", "inner.zzzzz is not a setting; inner has rate, pair, kind, size, power"),
        ("model: {name: simclr, temprature: 0.1}", "model.temprature is not a setting; did you mean model.temperature?"),
        ("model: {name: simclr, redundancy_weight: 1}", "model.redundancy_weight is not a setting here: simclr has no 'redundancy_weight'"),
        ("chain: [simclr, {name: vicreg, variance: 1}]", "chain[1].variance is not a setting; did you mean chain[1].variance_weight?"),
        ("model: {name: simclrr}", "model.name is 'simclrr', which is not known; did you mean 'simclr'?"),
        ("chain: [gpt]", f"chain[0].name is 'gpt', which is not known; choose one of {MODELS}"),
        ("model: {temperature: 0.1}", f"model.name is missing; choose one of {MODELS}"),
        ("model: {name: simclr, temperature: '1'}", "model.temperature is '1'; it should be a number"),
        ("model: {name: simclr, temperature: .inf}", "model.temperature is inf; it should be a finite number"),
        ("model: 3", "model is 3; it is a section of settings: write keys and values below it"),
        ("seed: 4.0", "seed is 4.0; it should be a whole number"),
        ("seed: ", "seed is empty; it should be a whole number"),
        ("is_on: 1", "is_on is 1; it should be true or false"),
        ("inner: {pair: x}", "inner.pair is 'x'; it should be a list, such as [x]"),
        ("note: 7", """note is 7; it should be text: '7' in quotes (on the command line note="'7'")"""),
        ("inner: {pair: [1, 2, 3]}", "inner.pair is [1, 2, 3]; it has too many values"),
        ("inner: {pair: [1, a]}", "inner.pair[1] is 'a'; it should be a number"),
        ("inner: {kind: tow}", "inner.kind is 'tow'; it should be 'one' or 'two'"),
        ("inner: {rate: 0}", "inner.rate is 0; it should be greater than 0"),
        ("inner: {size: 9}", "inner.size is too large; lower it"),
        ("workers: many", "workers is 'many'; it should be a whole number"),
        ("workers: [1, 2, 4]", "workers is [1, 2, 4]; it has too many values"),
        ("model: {name: lim, zzzzz: 1}", "model.zzzzz is not a setting; model has name, regularizers, crop_seconds, projector_dims, objective"),
        ("workers: [0, 2]", "workers[0] is 0; it should be greater than or equal to 1"),
        ("inner: 3", f"inner is 3; {NO_SECTION}"),
        ("seed: &a [*a]", "the settings hold something that is no plain value: Circular reference detected"),
        ("place: 's3://user:secret@host/x'", "place is a URI with a user, password or key in it, or with options (`?`), which would be saved with the run; take it out and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION or AWS_ENDPOINT_URL, or use ~/.aws or the machine's role"),
    ],
)  # fmt: skip
def test_build__says_in_one_sentence_what_is_wrong(text: str, expected: str) -> None:
    assert refusal(text) == expected


def test_load__names_the_file_and_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "simclr.yml").write_text("# nothing\n")
    (tmp_path / "wrong.yml").write_text("seed: a\n")
    assert settings.load(Tree, tmp_path / "simclr.yml") == Tree()
    with pytest.raises(ConfigError, match=r"wrong.yml: seed is 'a'; it"):
        settings.load(Tree, tmp_path / "wrong.yml")
    with pytest.raises(ConfigError, match=r"simclrr.yml is no yaml file; did you mean .*/simclr.yml\?$"):
        settings.load(Tree, tmp_path / "simclrr.yml")
    # The common folder and extension do not count as similarity.
    with pytest.raises(ConfigError, match=r"xyz.yml is no yaml file; .* has simclr, wrong$"):
        settings.load(Tree, tmp_path / "xyz.yml")
    with pytest.raises(
        ConfigError, match=r"nowhere/demo.yml is no yaml file; did you mean .*configs/demo.yml"
    ):
        settings.load(Tree, tmp_path / "nowhere" / "demo.yml")


def test_locate__what_is_here_comes_first_then_the_projects_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    locate = settings.locate
    assert locate("configs/simclr.yml") == FOLDER / "configs/simclr.yml"
    assert locate("configs/simcrl.yml") == FOLDER / "configs/simcrl.yml"  # for a message that lists names
    assert locate("no_such/simclr.yml") == Path("no_such/simclr.yml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/simclr.yml").touch()
    assert locate("configs/simclr.yml") == Path("configs/simclr.yml")
    assert locate("configs/simcrl.yml") == Path("configs/simcrl.yml")
    assert locate("configs/vicreg.yml") == FOLDER / "configs/vicreg.yml"  # reported on standard error


CHAIN = build(Tree, {"chain": ["simclr", "vicreg"]})


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["seed=3", "inner.rate=2e0", "note=a=b"], ["seed: 0 -> 3", "note: empty -> 'a=b'", "inner.rate: 1.0 -> 2.0"]),
        (["inner={rate: 2, size: 4}"], ["inner.rate: 1.0 -> 2.0", "inner.size: 3 -> 4"]),
        ({"inner.pair": (np.float64(2), 3)}, ["inner.pair: (1.0, 2.0) -> (2.0, 3.0)"]),
        (["model.name=simclr", "model.temperature=0.5"], ["model.temperature: 0.03 -> 0.5"]),
        (["chain.vicreg.variance_weight=2"], ["chain.vicreg.variance_weight: 1.0 -> 2.0"]),
        (["chain={simclr: {temperature: 1}}"], ["chain.simclr.temperature: 0.03 -> 1.0"]),
        (["chain=[vicreg, simclr]", "chain.simclr.temperature=1"],
         ["chain: ['simclr', 'vicreg'] -> ['vicreg', 'simclr']", "chain.simclr.temperature: 0.03 -> 1.0"]),
        ([], []),
    ],
)  # fmt: skip
def test_apply_overrides__changes_what_is_given_and_nothing_else(overrides: Any, changes: list[str]) -> None:
    assert differences(CHAIN, apply_overrides(CHAIN, overrides)) == changes
    assert CHAIN.seed == 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=vicreg", "model.covariance_weight=0.5"],
        ["model.covariance_weight=0.5", "model.name=vicreg"],
        ["model={covariance_weight: 0.5, name: vicreg}"],
        ["model.covariance_weight=0.5", "model=vicreg"],
    ],
)
def test_apply_overrides__another_name_starts_with_its_own_defaults(overrides: list[str]) -> None:
    tree = build(Tree, {"model": {"name": "simclr", "temperature": 0.2, "projector_dims": [7]}})
    changed = apply_overrides(tree, overrides)
    assert changed.model == build(Tree, {"model": {"name": "vicreg", "covariance_weight": 0.5}}).model
    assert "model.temperature: 0.2 -> (none)" in differences(tree, changed)
    assert "model.covariance_weight: (none) -> 0.5" in differences(tree, changed)


def test_apply_overrides__fills_an_optional_choice_and_empties_it() -> None:
    tree = apply_overrides(Tree(), ["extra.width=4", "extra.name=thin_resnet34"])
    assert tree.extra.width == 4
    assert apply_overrides(tree, ["extra=null"]) == Tree()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("=3", "the override '=3' is not of the form key.path=value, such as train.epochs=20"),
        ("inner={}", "the override 'inner={}' changes nothing; write keys and values between the braces"),
        ("inner.rates=3", "inner.rates is not a setting; did you mean inner.rate?"),
        ("note.x=3", "note is a section; it should be text"),
        ("inner=3", f"inner is 3; {NO_SECTION}"),
        ("chain.simcl.temperature=3", "chain.simcl.temperature is not a setting: 'simcl' is not in the list; did you mean 'simclr'?"),
        ("chain.simclr=3", "chain.simclr is an item of a list; set its keys, or the whole list"),
        ("seed=[", "the yaml is broken at line 1, column 2: expected the node content, but found '<stream end>'"),
    ],
)  # fmt: skip
def test_apply_overrides__says_what_is_wrong(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(CHAIN, [override])
    assert str(caught.value) == expected


def test_section__is_one_class_before_and_after_its_file_is_imported() -> None:
    program = """if True:
        import pickle, sys
        from sslsv.config import load_config
        config = load_config("configs/vicreg.yml")
        assert not {"torch", "sslsv.models.vicreg"} & sys.modules.keys()
        from sslsv.models.vicreg import VICReg
        assert config.model == VICReg.Config(**vars(config.model))
        assert pickle.loads(pickle.dumps(config)) == config
    """
    subprocess.run([sys.executable, "-c", program], cwd=FOLDER, check=True)


def test_choice__an_unfinished_file_is_told_of_only_where_it_is_chosen(tmp_path, monkeypatch):
    text = 'from typing import Literal\nLIMIT = 2\nclass A:\n class Config:\n  name: Literal["{}"] = "{}"\n  '
    text += "limit: int = {}\n"
    for name, limit in (("done", "2"), ("uses_others", "LIMIT"), ("half_written", "(")):
        (tmp_path / f"{name}.py").write_text(text.format(name, name, limit))
    monkeypatch.setattr(registry, "_folder", lambda package: tmp_path)
    assert [kind.name for kind in sections_of(choice("drafts"))] == ["done"]
    with pytest.raises(ValueError, match="^name is 'uses_others', but the Config in .* uses 'LIMIT'; it"):
        registry.settings_class("drafts", "uses_others")


@pytest.mark.parametrize("package", ["models", "encoders", "data.augmentations"])
def test_choice__every_one_is_a_strict_section(package: str) -> None:
    for kind in sections_of(choice(package)):
        with pytest.raises(ValidationError):
            kind(no_such_key=1)
