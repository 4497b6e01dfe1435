"""Plots of a sweep."""

import pytest

from raysde.tuning.training import plots
from raysde.tuning.training.ledger import Report, Trial
from raysde.tuning.training.space import read_space
from tests.support.sweeps import SPACE, trials_of


def test_values_lie_on_an_axis_by_their_size():
    assert plots.axis_places([1.0, 10.0, 100.0], True)[0] == pytest.approx([0.0, 0.5, 1.0])
    assert plots.axis_places([1.0, 2.0, 5.0], False)[0] == [0.0, 0.25, 1.0]
    assert plots.axis_places(["ve", "vp", "ve"], False) == ([0.0, 1.0, 0.0], [(0.0, "ve"), (1.0, "vp")])


def test_bins_of_log_snr_come_in_order():
    metrics = {"m_snr_1_to_3": 1.0, "m_snr_-8_to_-5": 2.0, "m": 3.0, "other_snr_1_to_3": 9.0, "m_snr_-1_to_1": 4.0}
    trial = Trial(0, {}, reports=[Report(0, 1, 2, metrics)])
    assert plots.bins_of(trial, "m") == [(-8.0, -5.0, 2.0), (-1.0, 1.0, 4.0), (1.0, 3.0, 1.0)]


def test_the_pictures_show_every_trial(tmp_path):
    trials = trials_of(("finished", 0.5, 128), ("stopped", 0.7, 32), ("failed", None, 0))
    space = read_space(SPACE)
    assert set(plots.draw_plots(trials, space, "m")) == {"parallel-coordinates.png", "error-by-log-snr.png"}
    assert len(plots.plot_parallel(trials[:2], space, "m").axes[0].lines) == 2 + 3  # trials and axes
    best_line = plots.plot_by_log_snr(trials[:2], "m").axes[0].lines[-1]
    assert list(best_line.get_xdata()) == [-6.5]
    assert best_line.get_label() == "trial 000, the best"
    assert plots.draw_plots(trials[2:], space, "m") == {}
