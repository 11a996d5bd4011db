"""Connected areas of a mask, their holes and their outlines, in numpy alone.

The results are those of scipy.ndimage (`label`, `binary_fill_holes`) and scikit-image (`label`, `find_contours`), which
the tests hold them against: serving needs neither.
"""

import numpy as np

# Right, up, left, down as (row, column), counterclockwise as seen on the screen.
_STEPS = ((0, 1), (-1, 0), (0, -1), (1, 0))


def label_regions(mask: np.ndarray, *, diagonal: bool) -> tuple[np.ndarray, int]:
    """Number the connected areas of a mask, in the order of their first pixels, row by row.

    Args:
        mask: bool (H, W).
        diagonal: whether pixels that touch at a corner are connected.

    Returns:
        int32 (H, W), 0 outside, 1 to N inside; and N.
    """
    height, width = mask.shape
    # Runs of pixels along rows, in the order of the picture; ends are exclusive. A pixel outside follows each row, so
    # that the picture is one line, in which numpy finds changes several times as fast as in two dimensions.
    line = np.zeros((height, width + 1), bool)
    line[:, :-1] = mask
    changes = np.flatnonzero(np.diff(line.ravel(), prepend=False))
    rows, starts = np.divmod(changes[::2], width + 1)
    ends = changes[1::2] - rows * (width + 1)
    labels = np.zeros(mask.shape, np.int32)
    if not len(rows):
        return labels, 0
    above, below = _touching(rows, starts, ends, width, int(diagonal))
    root = _join(len(rows), above, below)
    first, numbers = np.unique(root, return_inverse=True)
    labels[mask] = np.repeat(numbers.astype(np.int32) + 1, ends - starts)
    return labels, len(first)


def _touching(
    rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs that touch, one in the row above the other's; `reach` is 1 where corners count."""
    # One number line for all rows, with a gap between them that nothing reaches across.
    stride = width + 2
    first, last = rows * stride + starts, rows * stride + ends
    low = np.searchsorted(last, first - stride - reach, side="right")
    high = np.searchsorted(first, last - stride + reach, side="left")
    counts = np.maximum(0, high - low)
    below = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(low, counts) + offsets, below


def _join(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smallest member of each one's group, for groups that the pairs join."""
    root = np.arange(count)
    while len(one):
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            break
        one, other = one[apart], other[apart]
        low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        np.minimum.at(root, high, low)
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
    return root


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A bool mask (H, W) with what it encloses: what no way over edges joins to the picture's border."""
    padded = np.pad(~mask, 1, constant_values=True)
    outside, _ = label_regions(padded, diagonal=False)
    return (outside != 1)[1:-1, 1:-1]


def outline(labels: np.ndarray, number: int, box: tuple[int, int, int, int]) -> list[list[float]]:
    """The outer boundary of an area whose pixels touch at edges or corners.

    Args:
        labels: int (H, W), of `label_regions(..., diagonal=True)`.
        number: the area.
        box: rows and columns that it lies in: top, left, bottom, right, the last two exclusive.

    Returns:
        A closed polygon of (x, y) on the pixels' edges, in the middle of each edge between a pixel of the area and one
        outside; pixel (column c, row r) covers c <= x < c + 1, r <= y < r + 1.
    """
    top, left, bottom, right = box
    inside = np.pad(labels[top:bottom, left:right] == number, 1)
    # From below the last pixel of the last row, with the area on the left hand.
    row, column = inside.shape[0] - 2, int(np.flatnonzero(inside[-2])[-1])
    out = 3  # the direction in which the pixel's edge lies: down
    start = (row, column, out)
    points: list[list[float]] = []
    grid = inside.tolist()  # single reads of lists are several times as fast
    while True:
        step, along = _STEPS[out], _STEPS[(out - 1) % 4]
        points.append([column + left - 0.5 + step[1] / 2, row + top - 0.5 + step[0] / 2])
        ahead = (row + along[0], column + along[1])
        corner = (ahead[0] + step[0], ahead[1] + step[1])
        if grid[corner[0]][corner[1]]:
            (row, column), out = corner, (out + 1) % 4
        elif grid[ahead[0]][ahead[1]]:
            row, column = ahead
        else:
            out = (out - 1) % 4
        if (row, column, out) == start:
            points.append(list(points[0]))
            return points
