"""What is left of a run, told from what its parts have cost."""

from __future__ import annotations

import random

import pytest

from jaxdreamer.record.pace import _Cost


def test_a_cost_is_the_mean_of_the_last_two_hundred_samples_without_the_worst():
    draw, cost, samples = random.Random(0), _Cost(), []
    assert cost.each is None
    for index in range(600):
        sample = (draw.random() if index % 50 else draw.uniform(-0.1, 5.0), draw.choice([1, 1, 4]))
        cost.add(*sample)
        samples = [*samples, sample][-200:]
        if index >= 2:
            rest = sorted(samples, key=lambda sample: sample[0] / sample[1])[:-1]
            mean = max(0.0, sum(seconds for seconds, _ in rest)) / sum(count for _, count in rest)
            assert cost.each == pytest.approx(mean), index
