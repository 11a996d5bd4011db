"""Lone areas of a stack's masks."""

import numpy as np
import pytest

from bthub.imaging.cleaning import clean_stack


def masks(*boxes: tuple[int, int, int, int, int], n: int = 6) -> np.ndarray:
    """bool (n, 50, 60) with boxes (slice, y0, y1, x0, x1)."""
    found = np.zeros((n, 50, 60), bool)
    for index, y0, y1, x0, x1 in boxes:
        found[index, y0:y1, x0:x1] = True
    return found


GOES_ON = ((1, 10, 20, 10, 20), (2, 12, 22, 12, 22), (3, 12, 14, 12, 14))
LONE = (5, 30, 34, 40, 44)


def test_a_small_area_on_one_slice_goes_and_what_goes_on_stays():
    before = masks(*GOES_ON, LONE)
    after = clean_stack(before)
    assert np.array_equal(after, masks(*GOES_ON))
    assert before.sum() == masks(*GOES_ON, LONE).sum(), "the input is left alone"


def test_a_large_area_on_one_slice_stays():
    large = (5, 10, 30, 10, 30)  # 400 of 3,000 pixels
    assert clean_stack(masks(large)).sum() == 400
    assert clean_stack(masks(large), lone_share=0.2).sum() == 0


def test_a_lone_area_beside_a_tumor_on_the_same_slice_goes():
    beside = (2, 40, 43, 50, 53)
    assert np.array_equal(clean_stack(masks(*GOES_ON, beside)), masks(*GOES_ON))


def test_areas_that_touch_at_a_corner_go_on():
    corner = ((1, 10, 12, 10, 12), (2, 12, 14, 12, 14))
    assert clean_stack(masks(*corner)).sum() == 8
    apart = ((1, 10, 12, 10, 12), (2, 13, 15, 13, 15))
    assert clean_stack(masks(*apart)).sum() == 0


def test_how_many_slices_are_needed():
    two = GOES_ON[:2]
    assert clean_stack(masks(*two), min_slices=3, lone_share=0.1).sum() == 0
    assert clean_stack(masks(*two, LONE), min_slices=1).sum() == masks(*two, LONE).sum()
    assert clean_stack(masks(*two, LONE), lone_share=0).sum() == masks(*two, LONE).sum()


def test_a_single_slice_is_left_as_it_is():
    one = masks((0, 30, 34, 40, 44), n=1)
    assert np.array_equal(clean_stack(one), one)
    assert clean_stack(np.zeros((4, 9, 9), bool)).sum() == 0


@pytest.mark.parametrize("options", [{"min_slices": 0}, {"lone_share": 2}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError):
        clean_stack(masks(LONE), **options)
    with pytest.raises(ValueError):
        clean_stack(masks(LONE)[0])
