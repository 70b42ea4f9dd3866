"""Slopes of series that are known, with errors that say how far they may be off."""

from __future__ import annotations

import math
import random

from soak.statistics import quantile, slope


def test_a_line_has_its_slope_and_no_error() -> None:
    found = slope([[(float(x), 3.0 * x + 7) for x in range(10)]])
    assert found is not None and math.isclose(found.per_unit, 3) and found.error < 1e-9 and found.points == 10


def test_processes_that_were_replaced_share_a_slope_and_not_a_level() -> None:
    first = [(float(x), 100.0 + 2 * x) for x in range(6)]
    second = [(float(x), -500.0 + 2 * x) for x in range(6, 12)]
    found = slope([first, second])
    assert found is not None and math.isclose(found.per_unit, 2)
    # as one series, the fall from one to the other would be a slope
    as_one = slope([first + second])
    assert as_one is not None and as_one.per_unit < 0


def test_too_little_gives_no_slope() -> None:
    assert slope([]) is None
    assert slope([[(1.0, 1.0)], [(2.0, 5.0)], [(3.0, 9.0)]]) is None
    assert slope([[(float(x), float(x)) for x in range(4)]]) is None
    assert slope([[(1.0, float(y)) for y in range(9)]]) is None


def test_the_error_covers_the_truth() -> None:
    """Of many noisy series three errors cover nearly all; of series whose noise wanders too."""
    for memory in (0.0, 0.6):
        missed = 0
        for seed in range(200):
            draw, noise, points = random.Random(seed), 0.0, []
            for x in range(40):
                noise = memory * noise + draw.gauss(0, 50)
                points.append((float(x), 4 * x + noise))
            found = slope([points])
            assert found is not None
            missed += not found.at_least(3) <= 4 <= found.at_most(3)
        assert missed <= 8, (memory, missed)


def test_neighbours_that_agree_widen_the_error() -> None:
    draw = random.Random(0)
    noise = [draw.gauss(0, 1) for _ in range(60)]
    shuffled = slope([[(float(x), y) for x, y in enumerate(noise)]])
    ordered = slope([[(float(x), noise[x // 6]) for x in range(60)]])
    assert shuffled is not None and ordered is not None and ordered.error > 1.5 * shuffled.error


def test_quantiles() -> None:
    assert quantile([3, 1, 2, 4], 0.5) == 2 and quantile([3, 1, 2, 4], 0.99) == 4 and quantile([5], 1.0) == 5
    assert math.isnan(quantile([], 0.5))
