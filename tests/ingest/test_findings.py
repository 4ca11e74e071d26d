from dataclasses import replace

import numpy as np

from ingest.findings import Facts, Finding, Severity, find


def facts(*counts: int) -> Facts:
    """Flawless data with `counts` pictures in each class."""
    total = sum(counts)
    return Facts(
        labels=[f"class{number}" for number in range(len(counts))],
        label=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        split=np.concatenate([np.where(np.arange(n) < n - 2, 0, np.arange(n) - n + 3) for n in counts]).astype(
            np.uint8
        ),
        group=np.arange(total, dtype=np.int32),
        pairs=np.empty((0, 2), np.int64),
        width=np.full(total, 64, np.uint32),
        height=np.full(total, 64, np.uint32),
        gray=np.zeros(total, np.bool_),
        side=64,
        given=False,
        refused=0,
        merged=0,
    )


def by_kind(found: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in found}


def test_flawless_data_has_no_findings() -> None:
    assert find(facts(40, 50, 60)) == []


def test_classes_that_are_tiny_single_or_far_from_equal() -> None:
    found = by_kind(find(facts(100, 5, 1)))
    assert found["tiny_classes"].labels == ("class1",)
    assert found["single_example_classes"].labels == ("class2",)
    assert found["single_example_classes"].examples == (105,)
    assert found["imbalance"].labels == ("class0", "class2")
    assert "'class0' has 100 pictures, 'class2' 1" in found["imbalance"].message
    assert by_kind(find(facts(100, 20))).keys() == set()


def test_classes_that_a_part_lacks() -> None:
    flawed = replace(facts(20, 20), split=np.zeros(40, np.uint8), given=True)
    messages = [finding.message for finding in find(flawed) if finding.kind == "absent_classes"]
    assert messages == [
        "2 classes ('class0', 'class1') have no picture in validation.",
        "2 classes ('class0', 'class1') have no picture in test.",
    ]


def test_labels_that_differ_in_case_alone() -> None:
    found = by_kind(find(replace(facts(20, 20, 20), labels=["Cat", "cat", "dog"])))
    assert found["labels_differ_in_case"].labels == ("Cat", "cat")


def test_near_copies_their_labels_and_their_parts() -> None:
    base = facts(40, 40)
    group = base.group.copy()
    group[[3, 4]] = 3
    found = by_kind(find(replace(base, group=group, pairs=np.array([[3, 4], [5, 45], [6, 39]]), given=True)))
    assert found["near_duplicates"].examples == (3, 4)
    assert found["near_duplicates_differ_in_label"].labels == ("class0", "class1")
    assert found["near_duplicates_differ_in_label"].examples == (5, 45)
    assert (found["split_leak"].severity, found["split_leak"].examples) == (Severity.WARNING, (6, 39))


def test_odd_shapes_and_sizes() -> None:
    base = facts(40, 40)
    width = base.width.copy()
    width[:4] = 20, 200, 640, 700
    height = base.height.copy()
    height[:4] = 20, 60, 640, 700
    found = by_kind(find(replace(base, width=width, height=height)))
    assert found["small_pictures"].examples == (0,)
    assert found["odd_shapes"].examples == (1,)
    assert "200×60" in found["odd_shapes"].message
    assert found["large_pictures"].examples == (2, 3)


def test_gray_among_colour_and_gray_that_tells_the_class() -> None:
    base = facts(40, 40)
    gray = base.gray.copy()
    gray[[0, 50]] = True
    assert find(replace(base, gray=gray))[0].message == "2 pictures are gray, 78 in colour."
    gray[:40] = True
    assert by_kind(find(replace(base, gray=gray))).keys() == {"colour_tells_class"}
    assert find(replace(base, gray=np.ones(80, np.bool_))) == []


def test_files_that_were_refused_merged_or_contradict_each_other() -> None:
    found = by_kind(find(replace(facts(40, 40), refused=3, merged=1, conflicts=[7], torn=2, moved=1)))
    assert found["refused_files"].message == "3 files were left out; the import's report has the reasons."
    assert found["exact_duplicates"].message == "1 file was merged with an identical one."
    assert found["conflicting_labels"].examples == (7,)
    assert "split_leak_exact" in found
