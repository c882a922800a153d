from pathlib import Path

import pytest

from sslsv.prepare_data.sources import ARCHIVES, archives_of, parse_replacements


def test_archives__have_an_md5_for_every_part_of_every_archive() -> None:
    for name in ("voxceleb1", "voxceleb2", "musan", "rirs"):
        for archive in ARCHIVES[name]:
            for md5 in (archive.md5, *(part.md5 for part in archive.parts)):
                assert md5 is not None
                assert len(md5) == 32
    assert [len(archive.parts) for name in ("voxceleb1", "voxceleb2") for archive in ARCHIVES[name]] == [
        4,
        1,
        8,
    ]


def test_parse_replacements__gives_a_set_a_folder_or_a_pattern_and_a_file_its_address() -> None:
    given = [
        "voxceleb=https://a/b",
        "voxceleb2=https://c/?key={token}&file={name}",
        "vox1_test_wav.zip=https://d/e",
    ]
    found = parse_replacements(given, None)
    development, test = archives_of("voxceleb1", found)
    assert development.parts[0].url == "https://a/b/vox1_dev_wav_partaa"
    assert development.parts[0].md5 == ARCHIVES["voxceleb1"][0].parts[0].md5
    assert test.parts[0].url == "https://d/e"
    assert (
        archives_of("voxceleb2", found)[0].parts[7].url == "https://c/?key={token}&file=vox2_dev_aac_partah"
    )
    assert archives_of("musan", found) == ARCHIVES["musan"]


def test_parse_replacements__reads_md5_sums_and_null_for_none(tmp_path: Path) -> None:
    file = tmp_path / "sources.yml"
    file.write_text(
        "musan.tar.gz: {url: 'http://x/m', md5: null}\nrirs_noises.zip: {md5: 01234567890123456789012345678901}\nvoxceleb1: http://y\n"
    )
    found = parse_replacements(["musan.tar.gz=http://z"], file)
    assert (archives_of("musan", found)[0].parts[0].url, archives_of("musan", found)[0].parts[0].md5) == (
        "http://z",
        None,
    )
    assert archives_of("rirs", found)[0].parts[0].md5 == "01234567890123456789012345678901"
    assert archives_of("rirs", found)[0].parts[0].url == ARCHIVES["rirs"][0].parts[0].url
    assert archives_of("voxceleb1", found)[1].parts[0].url == "http://y/vox1_test_wav.zip"


@pytest.mark.parametrize(
    ("options", "yaml", "sentence"),
    [
        (["musan"], None, "--url takes NAME=URL"),
        (["musn=http://x"], None, "there is no file or set 'musn'; did you mean 'musan'"),
        ([], "- a\n", "must hold `NAME: URL` lines"),
        ([], "musan: {link: x}\n", "musan must be an address, or a mapping with `url` and `md5` alone"),
        ([], "musan: {md5: abc}\n", "the md5 of musan is 'abc'; it has 32 digits"),
        ([], "a: [\n", "is not yaml"),
        (["musan=ftp://host/musan"], None, "--url musan has no address .* begin with http:// or https://"),
        (["musan=host/musan"], None, "--url musan has no address"),
        ([], "musan: host/musan\n", "sources.yml: musan has no address"),
        ([], "musan: {url: [1, 2]}\n", "sources.yml: musan has no address"),
    ],
)
def test_parse_replacements__says_what_is_wrong(
    tmp_path: Path, options: list[str], yaml: str | None, sentence: str
) -> None:
    file = tmp_path / "sources.yml"
    if yaml is not None:
        file.write_text(yaml)
    with pytest.raises(ValueError, match=sentence):
        parse_replacements(options, file if yaml is not None else None)
