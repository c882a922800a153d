"""Make `python sslsv/train.py` work: Python then looks for the package beside that file, and finds this one.

So this file puts the package in its own place, and the folder above in the place of this folder, whose files
have names of other modules too, such as `profile`.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "sslsv":
    folder = Path(__file__).resolve().parent
    sys.path[:] = [str(folder.parent) if Path(each).resolve() == folder else each for each in sys.path]
    del sys.modules["sslsv"]
    importlib.import_module("sslsv")
