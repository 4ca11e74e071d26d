import bz2
import contextlib
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest import archives
from ingest.archives import members
from ingest.errors import ImportRefusedError, ReportLine
from ingest.limits import Limits
from ingest.names import clean
from tests.ingest.samples import huge_png, locked, packed, picture, pictures, tar_of, zip_of, zip_with_link

CONTAINERS = ("zip", "tar", "tar.gz", "tar.xz", "tar.bz2")
SMALL = Limits(ratio_from_bytes=1 << 20, max_unpacked_bytes=64 << 20)


def read(path: Path, limits: Limits | None = None) -> tuple[dict[str, bytes], list[ReportLine]]:
    lines: list[ReportLine] = []
    found = {member.path: member.data for member in members(path, limits or Limits(), lines.append)}
    return found, lines


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_files_whatever_it_is_called(container: str, tmp_path: Path) -> None:
    files = pictures("cat", "dog")
    path = packed(tmp_path, container, files).rename(tmp_path / "upload.jpg")
    assert read(path) == (files, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty (0 bytes)"),
        (picture(1), "single PNG picture"),
        (picture(1, "JPEG"), "single JPEG picture"),
        (b"Rar!\x1a\x07\x00" + bytes(600), "is a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "is a 7z archive"),
        (b"<!doctype html><title>Sign in</title>", "is a web page"),
        (b"path,label\na.jpg,cat\n", "is a text file"),
        (bytes(range(256)) * 4, "no known format"),
    ],
)
def test_what_is_no_archive_is_refused_with_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.zip"
    path.write_bytes(content)
    with pytest.raises(ImportRefusedError, match=said.replace("(", r"\(").replace(")", r"\)")) as refusal:
        read(path)
    assert "zip, tar, tar.gz, tar.xz or tar.bz2" in str(refusal.value)


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_empty_archive_is_refused(container: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="is empty"):
        read(packed(tmp_path, container, {}))


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_upload_that_was_cut_off_is_refused_wherever_it_was_cut(container: str, tmp_path: Path) -> None:
    path = packed(tmp_path, container, pictures("cat", "dog", kind="JPEG"))
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.5, 0.77, 0.99):
        cut = int(len(whole) * share)
        if container == "tar":
            cut = min(cut, 8000) | 1  # the last 10 KiB of a tar are zeros: nothing is missing without them
        path.write_bytes(whole[:cut])
        with pytest.raises(ImportRefusedError, match=r"cut off|damaged|no tar") as refused:
            read(path)
        assert refused.traceback  # held, with all its frames: the file must not wait for them to be collected
        assert str(path) not in [file.path for file in psutil.Process().open_files()]


def test_a_tar_cut_between_two_entries_is_imported_and_said_to_lack_its_end(tmp_path: Path) -> None:
    files = {"cat/1": bytes(512), "cat/2": bytes(512)}
    path = tar_of(tmp_path / "a.tar", files)
    path.write_bytes(path.read_bytes()[:1024])
    found, lines = read(path)
    assert list(found) == ["cat/1"]
    assert "no end marker" in lines[0].reason


def test_a_tar_damaged_in_the_middle_does_not_pass_for_a_short_one(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {f"cat/{n}": bytes(512) for n in range(3)})
    data = bytearray(path.read_bytes())
    data[1024 : 1024 + 512] = bytes([7]) * 512  # the second header
    path.write_bytes(data)
    with pytest.raises(ImportRefusedError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "climbs out"),
        ("cat/../../x.png", "climbs out"),
        ("/etc/passwd", "absolute path"),
        ("C:/Windows/x.png", "absolute path"),
        ("..\\..\\x.png", "climbs out"),
        ("cat/NUL.png", "device name"),
        ("con/1.png", "device name"),
        ("/".join("abcdefghijklmnopqrst") + "/1.png", "folders deep"),
        ("cat/" + "x" * 300 + ".png", "the limit is 255"),
        ("/".join(["y" * 200] * 6), "the limit is 1024"),
        ("cat/a\x07b.png", "control characters"),
    ],
)
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_unsafe_names_are_left_out_and_the_rest_is_kept(
    pack: Callable[..., Path], name: str, said: str, tmp_path: Path
) -> None:
    found, lines = read(pack(tmp_path / "a", {name: picture(1), "cat/good.png": picture(2)}))
    assert list(found) == ["cat/good.png"]
    assert [said in line.reason for line in lines] == [True]
    assert lines[0].path.isprintable()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_names_of_200_characters_letters_of_all_tongues_and_odd_separators_are_kept(
    pack: Callable[..., Path], tmp_path: Path
) -> None:
    names = ["cat/" + "x" * 196 + ".png", "Größe/ünï.png", "猫/一.png", "./cat//2.png", "auxiliary/connect.png"]
    found, lines = read(pack(tmp_path / "a", {name: name.encode() for name in names}))
    assert list(found) == [names[0], "Größe/ünï.png", "猫/一.png", "cat/2.png", "auxiliary/connect.png"]
    assert lines == []


def test_decomposed_letters_become_composed_ones(tmp_path: Path) -> None:
    found, _ = read(zip_of(tmp_path / "a.zip", {"Cafe\u0301/1.png": b"x"}))
    assert list(found) == ["Caf\u00e9/1.png"]


def test_names_that_are_not_utf8_are_read_as_the_container_means_and_reported(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"K@se/1.png": b"x", "cat/1.png": b"y"})
    path.write_bytes(path.read_bytes().replace(b"K@se", b"K\x84se"))
    found, lines = read(path)
    assert list(found) == ["Käse/1.png", "cat/1.png"]  # 0x84 is ä in cp437
    assert lines == [ReportLine("Käse/1.png", "its name is not UTF-8", "taken as 'Käse/1.png'")]

    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("Käse/1.png"))
    found, lines = read(tmp_path / "a.tar")
    assert list(found) == ["Käse/1.png"]
    assert lines[0].reason == "its name is not UTF-8"


def test_case_colliding_names_are_two_files(tmp_path: Path) -> None:
    found, lines = read(zip_of(tmp_path / "a.zip", {"cat/A.png": b"1", "cat/a.png": b"2"}))
    assert (len(found), lines) == (2, [])


def test_what_file_managers_leave_behind_is_passed_over_in_one_line(tmp_path: Path) -> None:
    rubbish = ("__MACOSX/cat/._1.png", "cat/.DS_Store", "Thumbs.db", "cat/._1.png", "cat/desktop.ini", ".hidden/1.png")
    found, lines = read(zip_of(tmp_path / "a.zip", {**dict.fromkeys(rubbish, b"x"), "cat/1.png": b"y"}))
    assert list(found) == ["cat/1.png"]
    assert len(lines) == 1
    assert "6 hidden files" in lines[0].reason


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    with tarfile.open(path, "w") as archive:
        for kind in kinds:
            entry = tarfile.TarInfo(f"cat/{kind.decode()}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("cat/good.png"))
    found, lines = read(path)
    assert list(found) == ["cat/good.png"]
    assert [line.reason for line in lines] == ["is a link"] * 2 + ["is a device or a pipe"] * 3

    found, lines = read(zip_with_link(tmp_path / "a.zip", "cat/link.png", "/etc/passwd", {"cat/good.png": b"x"}))
    assert list(found) == ["cat/good.png"]
    assert lines == [ReportLine("cat/link.png", "is a link", "left out")]


def test_locked_entries_are_left_out(tmp_path: Path) -> None:
    found, lines = read(locked(zip_of(tmp_path / "a.zip", {"cat/1.png": b"x"})))
    assert (found, lines) == ({}, [ReportLine("cat/1.png", "is locked with a password", "left out")])


def test_a_damaged_entry_is_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": b"A" * 50, "cat/2.png": b"B" * 50}, compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"AXAA", 1))
    found, lines = read(path)
    assert list(found) == ["cat/2.png"]
    assert "checksum" in lines[0].reason


def test_a_packing_that_is_not_read_is_named(tmp_path: Path) -> None:
    _, lines = read(zip_of(tmp_path / "a.zip", {"cat/1.png": b"x" * 100}, compression=zipfile.ZIP_LZMA))
    assert lines[0].reason == "is packed with LZMA"


def test_files_beyond_the_limit_of_one_file_are_left_out_unread(tmp_path: Path) -> None:
    files = {"cat/film.mp4": random.Random(0).randbytes(5000), "cat/1.png": b"x"}
    for container in CONTAINERS:
        found, lines = read(packed(tmp_path, container, files), Limits(max_file_bytes=4000))
        assert list(found) == ["cat/1.png"]
        assert lines[0].reason == "has 5,000 bytes, the limit is 4,000"


@pytest.mark.parametrize("container", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_decompression_bomb_is_refused_by_its_ratio(container: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="decompression bomb"):
        read(packed(tmp_path, container, {"cat/1.png": picture(1), "cat/zeros": bytes(8 << 20)}), SMALL)


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_archive_is_refused_by_what_it_unpacks_to(container: str, tmp_path: Path) -> None:
    path = packed(tmp_path, container, {f"cat/{n}": random.Random(n).randbytes(40_000) for n in range(5)})
    with pytest.raises(ImportRefusedError, match="more than 100,000 bytes"):
        read(path, Limits(max_unpacked_bytes=100_000))


def test_zip_entries_that_share_their_bytes_count_each_time(tmp_path: Path) -> None:
    """The better zip bomb: thousands of directory entries over one packed stream."""
    path = zip_of(tmp_path / "a.zip", {"a": bytes(1 << 20)})
    data = path.read_bytes()
    start, end = data.find(b"PK\x01\x02"), data.find(b"PK\x05\x06")
    entry, count = data[start:end], 300
    tail = bytearray(data[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = (len(entry) * count).to_bytes(4, "little")
    path.write_bytes(data[:start] + entry * count + bytes(tail))
    with pytest.raises(ImportRefusedError, match="decompression bomb"):
        read(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_number_of_entries_is_limited(container: str, tmp_path: Path) -> None:
    path = packed(tmp_path, container, {f"cat/{n}": b"x" for n in range(11)})
    with pytest.raises(ImportRefusedError, match="more than 10 entries"):
        read(path, Limits(max_entries=10))


def test_a_header_that_announces_a_name_without_end_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(path, {"cat/1": b"x"}).read_bytes()[:1024] + entry.tobuf() + bytes(1 << 20))
    with pytest.raises(ImportRefusedError, match="header of 8,589,93"):
        read(path)


@pytest.mark.parametrize(
    ("container", "pack"), [("tar.gz", gzip.compress), ("tar.bz2", bz2.compress), ("tar.xz", lzma.compress)]
)
def test_several_streams_in_one_file_and_padding_behind_it_are_read(
    container: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    plain = packed(tmp_path, "tar", {"cat/1.png": b"x" * 3000}).read_bytes()
    path = tmp_path / f"a.{container}"
    path.write_bytes(pack(plain[:1000]) + bytes(8) + pack(plain[1000:]) + bytes(512))
    assert read(path) == ({"cat/1.png": b"x" * 3000}, [])


def test_a_zip_behind_a_program_or_with_a_comment_is_a_zip(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\x05 no, not yet"
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    assert read(path) == ({"cat/1.png": b"x"}, [])


def test_old_tars_without_magic_are_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("cat/1.png")
    entry.size = 3
    header = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    header[257:] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a").write_bytes(bytes(header) + b"abc" + bytes(509 + 1024))
    assert read(tmp_path / "a") == ({"cat/1.png": b"abc"}, [])


NAMES = st.from_regex(r"[a-z]{1,8}/[a-z0-9]{1,20}\.png", fullmatch=True)


@given(
    files=st.dictionaries(NAMES, st.binary(max_size=400), min_size=1, max_size=6),
    zip64=st.booleans(),
    deflate=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_zips_are_read_as_the_standard_library_reads_them(
    files: dict[str, bytes], zip64: bool, deflate: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=zip64) as entry:
                entry.write(data)
    assert {"con", "aux", "prn", "nul"}.isdisjoint(part for name in files for part in name.replace(".", "/").split("/"))
    assert read(path) == (files, [])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(
    names=st.sets(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/\\:"), min_size=1, max_size=130), max_size=5
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tars_are_read_as_the_standard_library_reads_them(form: int, names: set[str], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for name in names:
            entry = tarfile.TarInfo(f"cat/{name}")
            entry.size = len(name)
            with contextlib.suppress(ValueError):  # ustar has no room for it
                archive.addfile(entry, io.BytesIO(b"x" * len(name)))
    here: list[tuple[str, int]] = []
    with tarfile.open(path) as archive:
        there = [(clean(member.name.encode(), Limits(), fallback="latin-1").path, member.size) for member in archive]
    with contextlib.suppress(ImportRefusedError):  # an empty one
        for raw in archives._tar_members(path, Limits(), lambda _: None):
            here.append((raw.name.path, raw.size_bytes))
    assert here == there


@pytest.mark.parametrize("container", CONTAINERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_reported_and_never_anything_else(
    container: str, data: st.DataObject, tmp_path: Path
) -> None:
    whole = bytearray(packed(tmp_path, container, {f"cat/{n}.txt": b"%d" % n * 90 for n in range(4)}).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(whole), 4000) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(whole)
    with contextlib.suppress(ImportRefusedError):
        read(path, Limits(max_unpacked_bytes=1 << 24))


def test_zips_with_more_entries_than_a_directory_of_16_bits_holds_are_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(66_000):
            archive.writestr(zipfile.ZipInfo(f"c/{n}"), b"")
    assert sum(1 for _ in members(path, Limits(), lambda _: None)) == 66_000


def test_a_picture_in_the_archive_is_not_decoded_while_it_is_read(tmp_path: Path) -> None:
    files = {"cat/1.png": huge_png(30_000, 30_000)}
    assert read(zip_of(tmp_path / "a.zip", files))[0] == files


def test_sparse_files_are_left_out(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"cat/1": b"x"})
    entry = tarfile.TarInfo("cat/sparse")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(path.read_bytes()[:1024] + bytes(header) + bytes(1024))
    found, lines = read(path)
    assert list(found) == ["cat/1"]
    assert lines == [ReportLine("cat/sparse", "is a sparse file", "left out")]
