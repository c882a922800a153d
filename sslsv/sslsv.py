"""Make `python sslsv/train.py` work, where this folder is on sys.path and `import sslsv` finds this file.

The file replaces itself by the package, and this folder on sys.path by its parent, because some file names
here are also names of standard modules, such as `profile`.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "sslsv":
    folder = Path(__file__).resolve().parent
    sys.path[:] = [str(folder.parent) if Path(each).resolve() == folder else each for each in sys.path]
    del sys.modules["sslsv"]
    importlib.import_module("sslsv")
