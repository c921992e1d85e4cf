"""Evidence of a broken assignment: fair where it is sound, quick where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from flywheel.statistics.sample_ratio import log_e_mismatch


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
@pytest.mark.parametrize("units", [1, 40, 300])
def test_evidence_is_one_on_average_where_the_share_is_kept(share: float, units: int) -> None:
    fell = np.arange(units + 1)
    logs = binom.logpmf(fell, units, share) + log_e_mismatch(fell, units, share)
    assert np.exp(logs).sum() == pytest.approx(1.0)


def test_a_doubled_share_is_found() -> None:
    assert float(log_e_mismatch(200, 1000, 0.1)) >= math.log(1000)
    assert float(log_e_mismatch(100, 1000, 0.1)) < 0
