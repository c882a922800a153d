"""The text of lists."""

from pathlib import Path

import pytest

from sslsv.data.list_text import list_blocks


def test_list_blocks__a_folder_that_is_no_list_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, and no Kaldi folder, .*prepare_data folder"):
        next(list_blocks(tmp_path.parent, tmp_path.name))
