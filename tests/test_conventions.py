"""What every part of the project keeps to; a failing test here names the rule."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from sslsv.config import ModelConfig, load_config
from sslsv.models import MODELS
from sslsv.settings import name_of

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "sslsv").rglob("*.py"))
MAX_LINES = 250
LONGER_FOR_A_REASON: dict[str, str] = {}  # path -> why it cannot be two files

DRIVERS = {"train", "tune", "evaluate", "verify", "embed", "export", "profile"}
KNOW_RAY = DRIVERS | {
    "autoscaler",
    "cluster",
    "elastic",
    "machines",
    "shared_storage",
    "progress",
    "train_loop",
    "training_worker",
    "checkpoint",
    "data.pipeline",
    "embedding_workers",
}
KNOW_RAY |= {"prepare_data.convert", "search.dimensions", "search.executor", "search.trial"}
LEAVES = {"losses", "modules", "schedules", "distributed", "diagnostics", "strict_yaml"}
LEAVES |= {"metrics", "error_curve", "intervals", "cost_intervals", "calibration", "scoring", "score_norm"}
FORBIDDEN_TO_NETWORKS = {"ray", "yaml", "pathlib", "os", "soundfile"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT / "sslsv").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


def imports_of(file: Path) -> set[str]:
    """Everything a file imports when it runs, at any place in it, as full names."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []  # names for annotations make nothing depend on anything
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which part is meant"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules_of(file: Path) -> set[str]:
    """Modules of this package that a file imports, without the leading `sslsv.`."""
    known = {module_name(source) for source in SOURCES}
    found = set()
    for name in imports_of(file):
        inner = name.removeprefix("sslsv.")
        if inner != name:
            found.add(inner if inner in known else inner.rpartition(".")[0])
    return found


IMPORTS = {module_name(file): (imports_of(file), own_modules_of(file)) for file in SOURCES}


def known_to(kind: str) -> list[str]:
    return [name for name in IMPORTS if name.startswith(f"{kind}.")]


def test_drivers__are_imported_by_nobody_save_that_tune_runs_train() -> None:
    for name, (_, own) in IMPORTS.items():
        allowed = {"train"} if name == "tune" else set()
        assert own & DRIVERS <= allowed, f"{name} imports a command line program"


def test_ray__is_known_only_where_it_has_to_be() -> None:
    for name, (every, _) in IMPORTS.items():
        if any(module.split(".")[0] == "ray" for module in every):
            assert name in KNOW_RAY, f"{name} imports ray"


@pytest.mark.parametrize("kind", ["models", "encoders"])
def test_networks__know_torch_only(kind: str) -> None:
    others = {"models": "encoders", "encoders": "models"}[kind]
    for name in known_to(kind):
        every, own = IMPORTS[name]
        assert not {module.split(".")[0] for module in every} & FORBIDDEN_TO_NETWORKS, name
        assert not any(module.split(".")[0] == others for module in own), f"{name} imports {others}"
        assert {module.split(".")[0] for module in own} <= {kind} | LEAVES, f"{name} imports {own}"


def test_methods__do_not_import_each_other() -> None:
    for name in MODELS:
        siblings = {module for module in IMPORTS[f"models.{name}"][1] if module.startswith("models.")}
        assert siblings <= {"models.base"}, f"{name} imports {siblings}"


def test_leaves__import_no_part_of_the_package_but_leaves() -> None:
    for name in LEAVES & IMPORTS.keys():
        assert IMPORTS[name][1] <= LEAVES, f"{name} imports {IMPORTS[name][1] - LEAVES}"


def test_config__is_imported_by_no_part_that_it_configures() -> None:
    for name, (_, own) in IMPORTS.items():
        if name.split(".")[0] in {"models", "encoders", "data", "optim"} | LEAVES:
            assert "config" not in own, f"{name} imports the config that imports it"


def test_models__have_one_file_one_config_and_one_test_of_the_same_name() -> None:
    stems = {name.partition(".")[2] for name in known_to("models")} - {"base"}
    assert set(MODELS) == stems
    assert {str(name_of(section)) for section in get_args(ModelConfig)} == set(MODELS)
    assert {name_of(model.Config) for model in MODELS.values()} == set(MODELS)
    for name in MODELS:
        for path in (f"configs/{name}.yml", f"configs/corpus/{name}.yml", f"tests/models/test_{name}.py"):
            assert (ROOT / path).is_file(), f"{name} lacks {path}"
        assert load_config(ROOT / "configs" / f"{name}.yml").model.name == name
        assert load_config(ROOT / "configs" / "corpus" / f"{name}.yml").model.name == name


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yml")), ids=lambda file: file.stem)
def test_configs__load_and_say_how_to_run_them(file: Path) -> None:
    config = load_config(file)
    relative = file.relative_to(ROOT).as_posix()
    assert f"python -m sslsv.train {relative}" in file.read_text(encoding="utf-8")
    assert config.run.name == file.stem
    assert not config.evaluation.allow_validation_on_test


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_sources__are_short_and_named_for_their_job(file: Path) -> None:
    relative = file.relative_to(ROOT).as_posix()
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES or relative in LONGER_FOR_A_REASON, f"{relative} has {lines} lines"
    assert not re.search(r"utils|helpers|common", relative), "the name says nothing about the job"


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_sources__begin_with_what_they_are(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_test_functions__say_their_unit_and_case() -> None:
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.fullmatch(r"test_\w+?__\w+", name), f"{file.name}: {name}"
