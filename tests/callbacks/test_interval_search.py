"""The record of a search: best row, table, plot and state."""

import pytest

from lightning_cim.callbacks.interval_search import IntervalSearch, Selection


class TestIntervalSearch:
    def search(self):
        rows = [
            Selection(0, 0.0, 0.4, (0.1, 0.2, 0.3), (None, 0.5, None), None),
            Selection(1, 0.0, 0.4, (0.1, 0.2, 0.3), (0.6, 0.9, 0.9), "mid"),
            Selection(2, 0.1, 0.3, (0.15, 0.2, 0.25), (0.8, None, 0.9), "right"),
        ]
        return IntervalSearch(rows, "val/acc", 5.0)

    def test_the_best_row(self):
        search = self.search()
        assert search.best is search[1]
        assert (search.best.score, search.best.sigma) == (0.9, 0.2)
        assert IntervalSearch(search.rows, "val/loss", lower_is_better=True).best is search[0]
        assert IntervalSearch().best is None
        undefined = IntervalSearch([Selection(0, 0.0, 0.4, (0.1, 0.2, 0.3), (None, None, None), "mid")])
        assert undefined.best is None

    def test_table_and_state(self):
        search = self.search()
        text = str(search)
        assert "0.200: 0.9000" in text
        assert "best 0.9000 at sigma 0.2 in epoch 1" in text
        other = IntervalSearch(k=5.0)
        other.load_state_dict(search.state_dict())
        assert other == search

    def test_plot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        figure, ax = self.search().plot()
        assert ax.get_ylabel() == "training sigma"
        line = next(line for line in ax.lines if line.get_label() == "sigma of the winner")
        assert list(line.get_ydata()) == [0.2, 0.2, 0.25]
        matplotlib.pyplot.close(figure)
        with pytest.raises(ValueError, match="no selection to plot"):
            IntervalSearch().plot()
