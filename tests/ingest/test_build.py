import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from ingest.build import Imported, ImportOptions, Progress, build
from ingest.errors import DiskFullError, ImportRefusedError, ReportLine
from ingest.limits import Limits
from ingest.preprocess import to_array
from tests.ingest.samples import encoded, huge_png, locked, noise, packed, picture, pictures, tar_of, zip_of
from tests.support.pictures import digits_zip


def imported(path: Path, workdir: Path, **options: object) -> Imported:
    workdir.mkdir()
    return build(path, workdir, options=ImportOptions(**options) if options else None)  # type: ignore[arg-type]


def decoders(parent: int | None = None) -> list[psutil.Process]:
    """Decoding processes of this process or another; the run's Postgres is a child of it, too."""
    return [child for child in psutil.Process(parent).children() if "ingest.decoding" in child.cmdline()]


def lines_about(found: Imported, path: str) -> list[ReportLine]:
    return [line for line in found.report if line.path == path]


def kinds(found: Imported) -> set[str]:
    return {finding.kind for finding in found.findings}


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_digits_become_packed_pictures_an_index_and_originals(tmp_path: Path) -> None:
    path, folder = digits_zip(tmp_path / "digits.zip", 30), tmp_path / "work"
    seen: list[Progress] = []
    folder.mkdir()
    found = build(path, folder, progress=seen.append)

    assert found.labels == list("0123456789")
    assert found.preprocessing.to_json() == {"version": 1, "side": 28, "channels": 1}
    assert found.counts == {"files": 300, "examples": 300, "refused": 0, "merged": 0, "mended": 0}
    assert [sum(found.histogram[part].values()) for part in ("train", "validation", "test")] == [240, 30, 30]
    assert len(found.report) == 0
    assert [state.stage for state in seen[:1]] == ["reading"]
    assert {state.stage for state in seen} == {"reading", "decoding", "checking"}
    assert [state.fraction for state in seen] == sorted(state.fraction for state in seen)

    images = np.load(folder / "images.npy", mmap_mode="r")
    index = np.load(folder / "index.npz")
    assert (images.shape, images.dtype) == ((300, 28, 28, 1), np.uint8)
    assert {name: (index[name].dtype, index[name].shape) for name in index} == {
        "labels": (np.int32, (300,)), "splits": (np.uint8, (300,)), "groups": (np.int32, (300,)),
    }  # fmt: skip
    for number in (0, 17, 299):
        row = found.examples[number]
        original = (folder / f"originals-{row.shard:05d}.bin").read_bytes()[row.offset : row.offset + row.length]
        assert sha256(original).digest() == row.sha256
        np.testing.assert_array_equal(to_array(original, found.preprocessing), images[number])
        assert row.path.split("/")[0] == found.labels[row.label]
        assert (row.label, row.split) == (index["labels"][number], index["splits"][number])
        assert (row.width, row.height, row.format, row.size_bytes) == (28, 28, "PNG", len(original))
        assert -(2**63) <= row.phash < 2**63
    assert [row.path for row in found.examples] == sorted(row.path for row in found.examples)


def test_the_same_upload_gives_the_same_bytes_and_the_order_in_the_archive_changes_no_example(tmp_path: Path) -> None:
    files = pictures("cat", "dog", "emu", each=30, kind="JPEG")
    files |= {"cat/broken.jpg": files["cat/0.jpeg"][:300], "dog/again.jpg": files["dog/1.jpeg"], "notes.txt": b"hello"}
    path = tar_of(tmp_path / "a.tar.gz", files, "w:gz")
    first, second = imported(path, tmp_path / "1"), imported(path, tmp_path / "2")
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2")
    assert first.content_hash == second.content_hash

    turned = imported(zip_of(tmp_path / "a.zip", dict(reversed(files.items()))), tmp_path / "3")
    assert turned.content_hash == first.content_hash
    assert fingerprint(tmp_path / "3")["images.npy"] == fingerprint(tmp_path / "1")["images.npy"]

    assert imported(path, tmp_path / "4", seed=1).content_hash != first.content_hash


@pytest.mark.parametrize("container", ["tar", "tar.xz"])
def test_given_parts_are_kept(container: str, tmp_path: Path) -> None:
    files = {
        f"set/{part}/{name}": data
        for at, part in enumerate(("train", "val", "test"))
        for name, data in pictures("cat", "dog", each=5, first=50 * at).items()
    }
    found = imported(packed(tmp_path, container, files), tmp_path / "work")
    assert found.histogram == {part: {"cat": 5, "dog": 5} for part in ("train", "validation", "test")}
    assert {row.path.split("/")[1]: row.split for row in found.examples} == {"train": 0, "val": 1, "test": 2}


def test_a_manifest_decides_labels_and_parts(tmp_path: Path) -> None:
    files = {f"pictures/{n}.png": picture(n) for n in range(8)}
    rows = [
        f"{'TRAIN' if n < 6 else 'TEST'},gs://bucket/pictures/{n}.png,{'odd' if n % 2 else 'even'}" for n in range(8)
    ]
    found = imported(zip_of(tmp_path / "a.zip", {**files, "all.csv": "\n".join(rows).encode()}), tmp_path / "work")
    assert found.labels == ["even", "odd"]
    assert found.histogram == {
        "train": {"even": 2, "odd": 2}, "validation": {"even": 1, "odd": 1}, "test": {"even": 1, "odd": 1},
    }  # fmt: skip


def test_every_bad_file_is_left_out_with_its_reason_and_the_rest_is_imported(tmp_path: Path) -> None:
    good = pictures("cat", "dog", each=6)
    bad = {
        "cat/empty.png": (b"", "is empty (0 bytes)"),
        "cat/cut.png": (picture(1, "PNG", 90, 90)[:900], "is damaged or cut short (PNG: "),
        "cat/text.jpg": (b"this is a text", "is not a picture but a text file"),
        "cat/inner.zip": (zip_of(tmp_path / "inner.zip", good).read_bytes(), "is a zip archive inside the archive"),
        "cat/huge.png": (huge_png(30_000, 30_000), "has 900,000,000 pixels, the limit is 50,000,000"),
        "stray.png": (picture(2), "lies in no class folder"),
        "../../evil.png": (picture(3), "climbs out of the archive with '..'"),
    }
    files = {**good, **{path: data for path, (data, _) in bad.items()}}
    found = imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert len(found.examples) == 12
    assert found.counts["refused"] == len(bad)
    for path, (_, reason) in bad.items():
        (line,) = lines_about(found, path)
        assert line.reason.startswith(reason)
        assert line.action.startswith("left out")
    assert "refused_files" in kinds(found)
    assert np.load(tmp_path / "work" / "images.npy").shape == (12, 32, 32, 3)


def test_what_was_mended_is_reported_and_imported(tmp_path: Path) -> None:
    clear = encoded(noise(1).convert("RGBA"), "PNG")
    files = pictures("cat", "dog") | {
        "cat/png.jpg": picture(70),
        "cat/clear.png": clear,
        "cat/ink.jpg": encoded(noise(3).convert("CMYK"), "JPEG"),
        "cat/deep.png": encoded(Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64), "PNG"),
    }
    found = imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert [(line.path, line.reason, line.action) for line in found.report] == [
        ("cat/clear.png", "has transparency", "laid on white"),
        ("cat/deep.png", "has 16 bits a channel", "reduced to 8"),
        ("cat/ink.jpg", "is in CMYK", "turned to RGB"),
        ("cat/png.jpg", "is named .jpg, but is PNG", "read as PNG"),
    ]
    assert found.counts == {"files": 12, "examples": 12, "refused": 0, "merged": 0, "mended": 4}


def test_identical_files_are_merged_and_contradicting_labels_are_reported(tmp_path: Path) -> None:
    files = pictures("cat", "dog", "emu", each=5)
    same, torn = files["cat/0.png"], picture(77)
    files |= {"cat/copy.png": same, "cat/copy2.png": same, "dog/copy.png": same}
    files |= {"cat/torn.png": torn, "dog/torn.png": torn}
    found = imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert len(found.examples) == 15
    assert lines_about(found, "cat/copy.png")[0] == ReportLine(
        "cat/copy.png", "is the same file as 'cat/0.png'", "merged with it"
    )
    assert "the labels are 'cat' and 'dog'" in lines_about(found, "dog/copy.png")[0].reason
    assert {line.path for line in found.report if "torn" in line.path} == {"cat/torn.png", "dog/torn.png"}
    (finding,) = [finding for finding in found.findings if finding.kind == "conflicting_labels"]
    assert finding.labels == ("cat",)
    assert [found.examples[at].path for at in finding.examples] == ["cat/0.png"]
    assert sum(path.stat().st_size for path in (tmp_path / "work").glob("originals-*")) == len(torn) + sum(
        len(data) for data in pictures("cat", "dog", "emu", each=5).values()
    )


def test_copies_across_a_given_split_stay_in_test_alone_and_near_copies_are_reported(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in pictures("cat", "dog", each=12, kind="PNG").items()}
    files |= {f"test/{name}": data for name, data in pictures("cat", "dog", each=4, first=500).items()}
    files["test/cat/same.png"] = files["train/cat/3.png"]
    files["test/dog/alike.jpg"] = encoded(noise(1004), "JPEG", quality=80)  # train/dog/4 saved again
    found = imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert "train/cat/3.png" not in {row.path for row in found.examples}
    by_kind = {finding.kind: finding for finding in found.findings}
    assert "1 picture was in two parts" in by_kind["split_leak_exact"].message
    assert {found.examples[at].path for at in by_kind["split_leak"].examples} == {
        "train/dog/4.png",
        "test/dog/alike.jpg",
    }

    divided = imported(tmp_path / "a.zip", tmp_path / "again", use_given_split=False)
    parts = {row.path: row.split for row in divided.examples}
    assert parts["train/dog/4.png"] == parts["test/dog/alike.jpg"]
    assert "split_leak" not in kinds(divided)


def test_gray_pictures_stored_as_colour_are_packed_as_gray(tmp_path: Path) -> None:
    files = {f"{label}/{n}.jpg": encoded(noise(n + 50 * len(label), 40, 40).convert("L").convert("RGB"), "JPEG")
             for label in ("a", "bb") for n in range(5)}  # fmt: skip
    found = imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert found.preprocessing.channels == 1
    assert np.load(tmp_path / "work" / "images.npy").shape == (10, 32, 32, 1)


def test_the_side_follows_the_data(tmp_path: Path) -> None:
    files = {
        f"{label}/{n}.png": picture(n + 50 * len(label), "PNG", 150, 70 + n) for label in ("a", "bb") for n in range(5)
    }
    path = zip_of(tmp_path / "a.zip", files)
    assert imported(path, tmp_path / "1").preprocessing.side == 64
    assert imported(path, tmp_path / "2", max_side=50).preprocessing.side == 48


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "The archive is empty"),
        ({"readme.txt": b"hello"}, "'readme.txt' is not a picture but a text file"),
        ({"a/": b""}, "There is no picture in the archive"),
        ({"a/.DS_Store": b"x"}, "There is no picture in the archive"),
        (pictures("cat"), "All 4 pictures carry the label 'cat'"),
        (pictures("cat") | {"dog/1.png": b""}, "All 4 pictures carry the label 'cat'"),
        ({"1.png": picture(1), "2.png": picture(2)}, "2 items were left out. The first: '1.png' lies in no class folder"),
        ({"cat/1.png": picture(1)[:60], "dog/2.png": picture(2)[:60]}, "'cat/1.png' is damaged or cut short"),
    ],
    ids=["empty", "no picture", "folders alone", "rubbish alone", "one class", "one readable class", "no folders", "all damaged"],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused_in_a_sentence(
    files: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ImportRefusedError) as refusal:
        imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")
    assert said in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_a_locked_zip_is_refused_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="is locked with a password") as refusal:
        imported(locked(zip_of(tmp_path / "a.zip", pictures("cat", "dog"))), tmp_path / "work")
    assert len(refusal.value.report) == 8


def test_a_class_with_one_picture_is_learnt_and_is_a_finding(tmp_path: Path) -> None:
    found = imported(
        zip_of(tmp_path / "a.zip", pictures("cat", "dog", each=10) | {"owl/1.png": picture(79)}), tmp_path / "work"
    )
    assert [found.histogram[part]["owl"] for part in ("train", "validation", "test")] == [1, 0, 0]
    (finding,) = [finding for finding in found.findings if finding.kind == "single_example_classes"]
    assert finding.labels == ("owl",)


def test_a_split_without_training_is_refused(tmp_path: Path) -> None:
    files = {f"{part}/{name}": data for at, part in enumerate(("val", "test"))
             for name, data in pictures("cat", "dog", first=50 * at).items()}  # fmt: skip
    with pytest.raises(ImportRefusedError, match="gives no picture to training"):
        imported(zip_of(tmp_path / "a.zip", files), tmp_path / "work")


@pytest.mark.parametrize("file", ["originals-00000.bin", "images.npy", "index.npz"])
def test_a_full_disk_is_said(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / file).symlink_to("/dev/full")  # every write to it fails with ENOSPC
    with pytest.raises(DiskFullError, match=r"The disk for imports is full: .* MiB are free"):
        build(zip_of(tmp_path / "a.zip", pictures("cat", "dog")), folder)
    assert decoders() == []


def test_what_progress_raises_ends_the_import_and_its_processes(tmp_path: Path) -> None:
    class CancelledError(Exception):
        pass

    def cancel(state: Progress) -> None:
        if state.stage == "decoding":
            raise CancelledError

    with pytest.raises(CancelledError):
        build(digits_zip(tmp_path / "a.zip", 60), tmp_path, progress=cancel)
    assert decoders() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


def test_decoding_processes_that_die_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    path = digits_zip(tmp_path / "a.zip", 60)
    undisturbed = imported(path, tmp_path / "1")
    killed = []

    def kill(state: Progress) -> None:
        if state.stage not in killed:
            killed.append(state.stage)
            for child in decoders():
                child.send_signal(signal.SIGKILL)

    (tmp_path / "2").mkdir()
    found = build(path, tmp_path / "2", progress=kill)
    assert killed[:2] == ["reading", "decoding"]
    assert found.content_hash == undisturbed.content_hash
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2")


def _in_a_daemon(path: Path, folder: Path, answer: Callable[[tuple[bool, str]], None]) -> None:
    answer((multiprocessing.current_process().daemon, build(path, folder).content_hash))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_runs_in_a_daemonic_process_as_a_celery_worker_is(method: str, tmp_path: Path) -> None:
    path, folder = digits_zip(tmp_path / "a.zip", 10), tmp_path / "work"
    folder.mkdir()
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_in_a_daemon, args=(path, folder, queue.put), daemon=True)  # type: ignore[attr-defined]
    process.start()
    daemonic, content_hash = queue.get()
    process.join()
    assert daemonic
    assert content_hash == imported(path, tmp_path / "here").content_hash


def test_decoding_processes_end_with_the_import_that_was_killed(tmp_path: Path) -> None:
    """The pipe to a killed parent closes, and a decoder ends with its input."""
    child = os.fork()
    if child == 0:
        build(digits_zip(tmp_path / "a.zip", 20), tmp_path, progress=lambda _: os.kill(os.getpid(), signal.SIGSTOP))
        os._exit(1)
    os.waitpid(child, os.WUNTRACED)
    of_the_child = decoders(child)
    assert len(of_the_child) == 2
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _, alive = psutil.wait_procs(of_the_child, timeout=10)
    assert alive == []


def test_decoders_do_not_see_the_service_s_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_DATABASE_URL", "postgresql://someone:secret@somewhere/db")
    seen: list[dict[str, str]] = []
    build(
        digits_zip(tmp_path / "a.zip", 3), tmp_path,
        progress=lambda _: seen.extend(child.environ() for child in decoders()),
    )  # fmt: skip
    assert seen
    assert not any("secret" in value for environment in seen for value in environment.values())


def test_options_are_json_and_back_and_refuse_nonsense() -> None:
    options = ImportOptions(fractions=(0.7, 0.2, 0.1), seed=3, use_given_split=False)
    assert ImportOptions.from_json(options.to_json()) == options
    assert ImportOptions.from_json({"fractions": [0.7, 0.2, 0.1]}).fractions == (0.7, 0.2, 0.1)
    with pytest.raises(ValueError, match="shares"):
        ImportOptions(fractions=(0.7, 0.2, 0.2))
    with pytest.raises(TypeError):
        ImportOptions.from_json({"colour": "blue"})
    with pytest.raises(ValueError, match="max_side must be 28 to 128"):
        ImportOptions(max_side=4000)


def test_limits_reach_the_decoders(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(ImportRefusedError, match="pixels, the limit is 1,000"):
        build(zip_of(tmp_path / "a.zip", pictures("cat", "dog")), tmp_path / "work", limits=Limits(max_pixels=1000))
