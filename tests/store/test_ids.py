"""Identifiers: unique, sorted by time, told apart from names."""

from store.ids import is_id, new_id


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    made = [new_id("trial") for _ in range(5_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_id_has_the_form_of_a_uuid_of_version_7() -> None:
    reference = new_id("dataset")
    assert is_id("dataset", reference)
    assert not is_id("search", reference)
    assert (reference[3 + 12], reference[3 + 16] in "89ab") == ("7", True)
