"""Where the files are that a command names: here, or in the folder of this project."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]  # holds configs/ and tune_spaces/, unless installed without them


def locate(path: str | Path) -> Path:
    """The path as it is, or below the project's folder if it is relative and only there.

    `ray submit` copies a command to the head node's home and runs it there, where no configs/ lies.
    """
    path = Path(path)
    is_elsewhere = not path.is_absolute() and not path.exists() and (FOLDER / path).is_file()
    return FOLDER / path if is_elsewhere else path
