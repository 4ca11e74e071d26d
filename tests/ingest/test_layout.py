import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import manifest
from ingest.errors import ImportRefusedError, ReportLine
from ingest.layout import place
from ingest.manifest import Row, Split


def placed(
    paths: list[str], tables: list[tuple[str, bytes]] | None = None
) -> tuple[list[tuple[str | None, str]], list[ReportLine]]:
    """Label and split of each path, and the report."""
    lines: list[ReportLine] = []
    result = place(paths, tables or [], lines.append)
    labels = [None if label is None else result.names[label] for label in result.labels]
    return [(label, Split(split).name.lower()) for label, split in zip(labels, result.splits, strict=True)], lines


def test_folders_are_labels() -> None:
    assert placed(["cat/1.png", "dog/2.png", "dog/deep/er/3.png"]) == (
        [("cat", "free"), ("dog", "free"), ("dog", "free")],
        [],
    )


@pytest.mark.parametrize("top", ["", "flowers/", "flowers/images/", "my.data v2/"])
def test_folders_that_wrap_everything_are_no_labels(top: str) -> None:
    assert placed([f"{top}cat/1.png", f"{top}dog/2.png"])[0] == [("cat", "free"), ("dog", "free")]


@pytest.mark.parametrize("top", ["", "flowers/"])
@pytest.mark.parametrize("word", ["val", "validation", "valid", "Val", "dev"])
def test_folders_named_train_validation_test_are_parts(top: str, word: str) -> None:
    paths = [f"{top}{part}/{label}/1.png" for part in ("train", word, "TEST") for label in ("cat", "dog")]
    assert placed(paths)[0] == [(label, part) for part in ("train", "validation", "test") for label in ("cat", "dog")]


def test_a_part_alone_wraps_and_divides_nothing() -> None:
    assert placed(["train/cat/1.png", "train/dog/2.png"])[0] == [("cat", "free"), ("dog", "free")]


def test_classes_may_be_called_train_or_test() -> None:
    assert placed(["test/1.png", "train/2.png", "plane/3.png"])[0] == [
        ("test", "free"),
        ("train", "free"),
        ("plane", "free"),
    ]


def test_what_lies_beside_the_parts_or_in_no_class_folder_is_left_out() -> None:
    paths = ["train/cat/1.png", "test/cat/2.png", "other/cat/3.png", "train/4.png", "5.png"]
    found, lines = placed(paths)
    assert found == [("cat", "train"), ("cat", "test"), (None, "free"), (None, "train"), (None, "free")]
    assert [(line.path, line.reason) for line in lines] == [
        ("other/cat/3.png", "lies in none of the folders test, train"),
        ("train/4.png", "lies in no class folder"),
        ("5.png", "lies in none of the folders test, train"),
    ]


def test_a_stray_picture_at_the_top_does_not_hide_the_wrapping_folder() -> None:
    found, lines = placed(["cover.png", "flowers/preview.png", "flowers/rose/1.png", "flowers/tulip/2.png"])
    assert found == [(None, "free"), (None, "free"), ("rose", "free"), ("tulip", "free")]
    assert [line.path for line in lines] == ["cover.png", "flowers/preview.png"]


def test_googles_manifest_has_the_part_first_and_addresses_of_a_bucket() -> None:
    table = (
        b"TRAIN,gs://bucket/flowers/a.jpg,rose\nVALIDATION,gs://bucket/flowers/b.jpg,tulip\n"
        b"TEST,gs://bucket/flowers/c.jpg,rose\n,gs://bucket/flowers/d.jpg,tulip\nUNASSIGNED,gs://bucket/flowers/e.jpg,rose\n"
    )
    found, lines = placed([f"{letter}.jpg" for letter in "abcde"], [("all.csv", table)])
    assert found == [("rose", "train"), ("tulip", "validation"), ("rose", "test"), ("tulip", "free"), ("rose", "free")]
    assert lines == []


@pytest.mark.parametrize(
    "table",
    [
        "images/a.jpg,rose\nimages/b.jpg,tulip,test\n",
        "path,label,split\nimages/a.jpg,rose,\nimages/b.jpg,tulip,test\n",
        "label;filename;set\nrose;images/a.jpg;\ntulip;images/b.jpg;test\n",
        "\ufeffImage\tClass\tSplit\r\nimages\\a.jpg\trose\t\r\n\r\n./images/b.jpg\t tulip \tTest\r\n",
        '"path","label","split"\n"images/a.jpg","rose",""\n"images/b.jpg","tulip","test"\n',
        "path,label,split\n/home/me/images/a.jpg,rose,\nC:\\data\\images\\b.jpg,tulip,test\n",
    ],
)
def test_a_plain_manifest_may_have_a_header_in_any_order_and_any_usual_delimiter(table: str) -> None:
    found, lines = placed(["images/a.jpg", "images/b.jpg"], [("labels.csv", table.encode())])
    assert (found, lines) == ([("rose", "free"), ("tulip", "test")], [])


def test_paths_count_from_where_the_manifest_lies() -> None:
    found, _ = placed(
        ["flowers/images/a.jpg", "flowers/b.jpg"], [("flowers/labels.csv", b"images/a.jpg,rose\nflowers/b.jpg,tulip\n")]
    )
    assert found == [("rose", "free"), ("tulip", "free")]


def test_a_local_path_is_not_guessed_by_its_end() -> None:
    found, lines = placed(["a.jpg", "b.jpg"], [("labels.csv", b"x/a.jpg,rose\nb.jpg,tulip\n")])
    assert found == [(None, "free"), ("tulip", "free")]
    assert [line.path for line in lines] == ["labels.csv:1", "a.jpg"]


def test_a_bad_row_is_reported_with_its_line_and_the_rest_is_taken() -> None:
    table = b"path,label,split\na.jpg,rose,train\nmissing.jpg,rose,train\nb.jpg,,train\nc.jpg,tulip,tomorrow\nd.jpg\na.jpg,rose,train\na.jpg,tulip\n,rose,\ne.jpg,tulip,test\n"
    found, lines = placed([f"{letter}.jpg" for letter in "abcde"], [("labels.csv", table)])
    assert found == [("rose", "train"), (None, "free"), (None, "free"), (None, "free"), ("tulip", "test")]
    assert [(line.path, line.reason) for line in lines] == [
        ("labels.csv:3", "names 'missing.jpg', which is no picture of the archive"),
        ("labels.csv:4", "has no label"),
        ("labels.csv:5", "has the split 'tomorrow'; accepted are train, validation, test or nothing"),
        ("labels.csv:6", "has 1 cells; path and label are needed"),
        ("labels.csv:7", "names 'a.jpg' a second time"),
        ("labels.csv:8", "names 'a.jpg' again, with another label ('tulip')"),
        ("labels.csv:9", "names no picture"),
        ("b.jpg", "is not named in labels.csv"),
        ("c.jpg", "is not named in labels.csv"),
        ("d.jpg", "is not named in labels.csv"),
    ]


def test_rows_with_two_labels_or_a_box_are_left_out() -> None:
    table = b"TRAIN,a.jpg,rose\nTRAIN,b.jpg,rose,tulip\nTRAIN,c.jpg,rose,0.1,0.2,,,0.3,0.4,,\nTRAIN,d.jpg,tulip,,\n"
    found, lines = placed([f"{letter}.jpg" for letter in "abcd"], [("labels.csv", table)])
    assert [label for label, _ in found] == ["rose", None, None, "tulip"]
    assert "more than one label or a box" in lines[0].reason


def test_tables_that_name_no_picture_are_passed_over_and_two_that_do_are_refused() -> None:
    found, lines = placed(["cat/1.png", "dog/2.png"], [("notes.csv", b"a,b\nc,d\n")])
    assert found == [("cat", "free"), ("dog", "free")]
    assert lines[0].path == "notes.csv"
    with pytest.raises(ImportRefusedError, match=r"2 manifests \(a.csv, b.csv\)"):
        placed(["cat/1.png"], [("a.csv", b"cat/1.png,x\n"), ("b.csv", b"cat/1.png,x\n")])


def test_letters_of_windows_tables_are_read() -> None:
    assert placed(["a.jpg"], [("l.csv", "a.jpg,Käse\n".encode("cp1252"))])[0] == [("Käse", "free")]
    assert placed(["a.jpg"], [("l.csv", "a.jpg,Käse\n".encode("utf-16"))])[0] == [("Käse", "free")]


def test_labels_must_be_printable_and_of_sensible_length() -> None:
    assert manifest.label_problem("a\x07") == "has a label with unprintable characters ('a\\x07')"
    assert manifest.label_problem("ä" * 128) == "has a label of more than 255 bytes"
    assert manifest.label_problem("=cmd|' /C calc'!A0") is None  # text here, and escaped by whoever writes a table


def test_a_cell_without_end_is_reported_not_raised() -> None:
    rows = list(manifest.read(b'a.jpg,cat\n"b.jpg,' + b"x" * 200_000))
    assert rows[0] == Row(1, "a.jpg", "cat")
    assert rows[1].problem is not None


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_rows_or_problems(data: bytes) -> None:
    for row in manifest.read(data):
        assert row.problem or (row.path and row.label)
        assert ".." not in row.path or row.path
