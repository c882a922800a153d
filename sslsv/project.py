"""Where the files are that a command names: here, or in the folder of this project."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]  # holds configs/ and tune_spaces/, unless installed without them


def locate(path: str | Path) -> Path:
    """The path as it is, or below the project's folder if it is relative and only there, file or folder.

    `ray submit` copies a command to the head node's home and runs it there, where no configs/ lies: a wrong
    name is then told beside the names that there are.
    """
    path = Path(path)
    if path.is_absolute() or path.exists():
        return path
    is_file = (FOLDER / path).is_file()
    is_in_folder = not path.parent.exists() and (FOLDER / path.parent).is_dir()
    return FOLDER / path if is_file or is_in_folder else path
