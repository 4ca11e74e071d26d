"""Pictures covered piece by piece, and what the drops of a score say of a place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.occlusion import COPIES_MAX, Fill, Occlusion, OcclusionError


@given(side=st.integers(1, 64), data=st.data())
def test_every_pixel_is_covered_and_every_copy_differs_where_its_patch_lies_alone(
    side: int, data: st.DataObject
) -> None:
    patch = data.draw(st.integers(max(1, side // 8), side))
    plan = Occlusion.of(side, patch, data.draw(st.integers((patch + 1) // 2, patch)))
    checks = np.indices((side, side)).sum(0) % 2 * 255  # no pixel has the mean colour of these
    picture = checks[..., None].astype(np.uint8)
    copies = plan.copies(picture, plan.cover(picture), 0, plan.count)
    changed = (copies != picture)[..., 0]
    assert len(copies) == plan.count <= COPIES_MAX
    if side > 1:
        assert changed.any(0).all()
        assert set(changed.sum((1, 2)).tolist()) == {patch**2}
    again = [plan.copies(picture, plan.cover(picture), first, 3) for first in range(0, plan.count, 3)]
    assert np.array_equal(np.concatenate(again), copies)


@pytest.mark.parametrize(("patch", "stride"), [(None, None), (4, 4), (5, 3), (16, 1)])
def test_heat_is_the_mean_drop_over_what_covers_a_pixel_and_the_grid_its_mean_over_cells(
    patch: int | None, stride: int | None
) -> None:
    plan = Occlusion.of(16, patch, stride)
    assert np.allclose(plan.heat(np.full(plan.count, 0.25)), 0.25)
    assert np.allclose(plan.grid(np.full((16, 16), 0.25)), 0.25)
    cells = -(-16 // plan.stride)
    assert plan.grid(plan.heat(np.ones(plan.count))).shape == (cells, cells)
    first = np.zeros(plan.count)
    first[0] = 1.0
    heat = plan.heat(first)
    assert heat[0, 0] == heat.max() > 0
    assert not heat[plan.patch :].any()


def test_what_covers_is_the_mean_colour_or_the_blurred_picture() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :, 0] = 200
    covers: dict[Fill, np.ndarray] = {fill: Occlusion.of(32, fill=fill).cover(picture) for fill in ("mean", "blur")}
    assert np.unique(covers["mean"].reshape(-1, 3), axis=0).tolist() == [[100, 0, 0]]
    assert covers["blur"][0, 0, 0] > 190 > 100 > 10 > covers["blur"][31, 0, 0]


@pytest.mark.parametrize(
    ("side", "patch", "stride", "field"),
    [(16, 17, None, "patch"), (16, 0, None, "patch"), (16, 4, 5, "stride"), (16, 4, 0, "stride"),
     (64, 2, 1, "stride"), (1024, 8, None, "patch")],
)  # fmt: skip
def test_patches_that_do_not_fit_leave_gaps_or_are_too_many_are_refused(
    side: int, patch: int, stride: int | None, field: str
) -> None:
    with pytest.raises(OcclusionError) as refused:
        Occlusion.of(side, patch, stride)
    assert refused.value.field == field


@pytest.mark.parametrize("side", [1, 2, 8, 28, 96, 1024])
def test_without_a_wish_about_a_hundred_copies_are_made(side: int) -> None:
    assert Occlusion.of(side).count <= 130
