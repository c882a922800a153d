"""What single settings must be, beyond their types: run names, test lists."""

import os
from collections import Counter
from collections.abc import Sequence

from sslsv.settings import refuse_if


def check_run_name(name: str | None) -> None:
    """Refuse names that are no name of a folder directly below `run.storage`; null passes."""
    refuse_if(
        name is not None and (name.strip() in ("", ".", "..") or "/" in name or "\\" in name),
        f"name is {name!r}; it names one folder below run.storage: give a word without path separators "
        "(run.storage takes the path)",
    )


def check_test_lists(tests: Sequence[str]) -> None:
    """Refuse test lists whose metrics, `test/<file name>/...`, could not be told apart."""
    names = Counter(os.path.basename(os.path.normpath(test)) for test in tests)
    twice = [name for name, count in names.items() if count > 1]
    refuse_if(
        bool(twice),
        f"test is {list(tests)}; two lists have the file name {' and '.join(map(repr, twice))}, under which "
        "their results are kept: rename one, or name it once",
    )
    refuse_if(
        "validation" in names,
        f"test is {list(tests)}; no test list may be called 'validation', which is what validation trials "
        "are called: rename the file",
    )


def is_among(root: str, name: str | None, names: Sequence[str]) -> bool:
    """Whether a list is one of several, however their paths below `root` are spelt."""
    paths = {os.path.abspath(os.path.join(root, other)) for other in names}
    return name is not None and os.path.abspath(os.path.join(root, name)) in paths


def check_memory_settings(
    chunk_size: int | None, recompute: bool, uses_compile: bool, sync_batchnorm: bool
) -> None:
    """Refuse ways to save memory that do not go together, or that would not do what other settings say."""
    refuse_if(
        recompute and uses_compile,
        "recompute and compile are both true; a compiled step chooses by itself what it keeps: set one of "
        "them to false",
    )
    refuse_if(
        chunk_size is not None and uses_compile,
        f"chunk_size is {chunk_size} and compile true; chunks can't be compiled: set compile to false, or "
        "chunk_size to null",
    )
    refuse_if(
        chunk_size is not None and sync_batchnorm,
        f"chunk_size is {chunk_size} and sync_batchnorm true, but a chunk knows no batch statistics other "
        "than its own; set recompute to true instead of chunk_size (the same run in less memory), or "
        "sync_batchnorm to false (each chunk counts as a worker)",
    )
