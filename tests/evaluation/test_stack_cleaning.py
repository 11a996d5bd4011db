"""Lone masks in the rows of a predictions file."""

from bthub.evaluation.stack_cleaning import without_lone


def rows(*stacks: tuple[str, list[int]]) -> list[dict[str, str]]:
    return [
        {
            "patient_id": patient,
            "slice_index": str(index),
            "tumor_px": "0",
            "predicted_px": str(pixels),
            "intersection_px": "0",
            "pixels": "1000",
        }
        for patient, stack in stacks
        for index, pixels in enumerate(stack, 1)
    ]


def drawn(found: list[dict[str, str]]) -> list[int]:
    return [int(row["predicted_px"]) for row in found]


def test_a_small_mask_between_empty_slices_goes():
    before = rows(("a", [0, 4, 0, 5, 6, 0, 7]), ("b", [8, 0, 300]))
    kept, removed = without_lone(before, 0.01)
    assert drawn(kept) == [0, 0, 0, 5, 6, 0, 0, 0, 0, 300]
    assert [(row["patient_id"], row["slice_index"]) for row in removed] == [("a", "2"), ("a", "7"), ("b", "1")]
    assert drawn(before) == [0, 4, 0, 5, 6, 0, 7, 8, 0, 300]


def test_patients_are_not_neighbors_and_order_does_not_matter():
    before = rows(("a", [0, 9]), ("b", [9, 0]))
    assert drawn(without_lone(before, 0.01)[0]) == [0, 0, 0, 0]
    assert drawn(without_lone(before[::-1], 0.01)[0]) == [0, 0, 0, 0]


def test_nothing_goes_at_zero_and_a_single_slice_stays():
    assert drawn(without_lone(rows(("a", [0, 4, 0])), 0)[0]) == [0, 4, 0]
    assert drawn(without_lone(rows(("a", [4])), 1)[0]) == [4]
    assert drawn(without_lone(rows(("a", [0, 999, 0])), 1)[0]) == [0, 0, 0]
