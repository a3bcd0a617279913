"""What every provider promises; a provider of one's own passes it with one fixture."""

import numpy as np
import pandas as pd
import pytest

from tradebot.config import UserError
from tradebot.prices import ACTION_COLUMNS, BAR_COLUMNS
from tradebot.providers import CsvProvider, ProviderDown, SampleProvider, UnknownSymbol

ALWAYS = pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")


def on(*dates):
    return tuple(pd.Timestamp(date) for date in dates)


class ProviderContract:
    """Subclass it with a fixture `provider` that serves the sample: AAPL, FB, GOOG, IBM, MSFT, 2000-2013."""

    def test_a_daily_answer_has_the_shape_of_bars(self, provider):
        bars, actions = provider.fetch("AAPL", *on("2005-02-24", "2005-03-01"))
        assert list(bars.columns) == BAR_COLUMNS
        assert set(bars.dtypes) == {np.dtype("float64")}
        assert bars.index.dtype == np.dtype("datetime64[ns]")
        assert bars.index.name == "timestamp"
        assert list(actions.columns) == ACTION_COLUMNS

    def test_both_ends_are_included(self, provider):
        bars, _ = provider.fetch("AAPL", *on("2005-02-24", "2005-03-01"))
        assert list(bars.index) == list(on("2005-02-24", "2005-02-25", "2005-02-28", "2005-03-01"))

    def test_one_day_is_a_span(self, provider):
        bars, _ = provider.fetch("IBM", *on("2008-10-10", "2008-10-10"))
        assert list(bars.index) == list(on("2008-10-10"))

    def test_a_time_of_day_does_not_matter_for_daily_bars(self, provider):
        bars, _ = provider.fetch("AAPL", *on("2005-02-24 14:30", "2005-02-25 09:00"))
        assert list(bars.index) == list(on("2005-02-24", "2005-02-25"))

    @pytest.mark.parametrize("symbol", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
    def test_all_history_is_as_traded_to_the_cent(self, provider, symbol):
        bars, actions = provider.fetch(symbol, *ALWAYS)
        expected, expected_actions = SampleProvider().fetch(symbol, *ALWAYS)
        pd.testing.assert_frame_equal(bars, expected, rtol=0, atol=1e-9, check_freq=False)
        pd.testing.assert_frame_equal(actions, expected_actions, rtol=0, atol=5e-5)

    def test_a_page_that_ends_before_a_split_is_as_traded(self, provider):
        bars, actions = provider.fetch("AAPL", *on("2004-01-02", "2004-12-31"))
        assert (bars["close"].iloc[0], bars["close"].iloc[-1]) == (21.28, 64.40)
        assert actions.empty

    def test_pages_add_up_to_the_whole(self, provider):
        pages = [provider.fetch("MSFT", *on(f"{year}-01-01", f"{year}-12-31")) for year in range(2002, 2006)]
        whole = provider.fetch("MSFT", *on("2002-01-01", "2005-12-31"))
        pd.testing.assert_frame_equal(pd.concat(page.bars for page in pages), whole.bars)
        pd.testing.assert_frame_equal(
            pd.concat([page.actions for page in pages if len(page.actions)], ignore_index=True), whole.actions
        )

    @pytest.mark.parametrize(
        ("start", "end", "kinds"),
        [
            ("2005-02-28", "2005-02-28", ["split"]),
            ("2005-02-25", "2005-02-28", ["split"]),
            ("2005-02-28 14:30", "2005-03-01", ["split"]),
            ("2005-03-01", "2005-03-31", []),
            ("2012-08-09", "2012-11-07", ["dividend", "dividend"]),
            ("2012-08-10", "2012-11-06", []),
        ],
    )
    def test_actions_are_those_that_took_effect_in_the_span(self, provider, start, end, kinds):
        _, actions = provider.fetch("AAPL", *on(start, end))
        assert list(actions["kind"]) == kinds

    @pytest.mark.parametrize(
        "span", [("2005-02-26", "2005-02-27"), ("1999-01-01", "1999-12-31"), ("2015-01-01", "2015-02-01")]
    )
    def test_a_span_without_bars_is_empty_in_the_same_shape(self, provider, span):
        bars, actions = provider.fetch("AAPL", *on(*span))
        assert len(bars) == len(actions) == 0
        assert list(bars.columns) == BAR_COLUMNS
        assert bars.index.dtype == np.dtype("datetime64[ns]")
        assert set(bars.dtypes) == {np.dtype("float64")}

    def test_an_unknown_symbol_is_the_users_to_mend(self, provider):
        with pytest.raises(UnknownSymbol, match=rf"^{provider.name}: NOPE: [^\n]+; [^\n]+$") as caught:
            provider.fetch("NOPE", *on("2005-01-01", "2005-12-31"))
        assert isinstance(caught.value, UserError)
        assert not isinstance(caught.value, ProviderDown)

    def test_a_span_that_ends_before_it_starts_is_refused(self, provider):
        with pytest.raises(UserError, match=r"AAPL: the start 2005-02-02 .* is after the end 2005-02-01"):
            provider.fetch("AAPL", *on("2005-02-02", "2005-02-01"))

    def test_an_interval_it_does_not_have_is_refused(self, provider):
        with pytest.raises(
            UserError, match=f"{provider.name}: AAPL: there are no 7m bars here; choose from .*1d"
        ):
            provider.fetch("AAPL", *on("2005-02-01", "2005-02-02"), "7m")

    def test_an_answer_belongs_to_who_asked(self, provider):
        first = provider.fetch("AAPL", *on("2005-02-24", "2005-03-01"))
        first.bars.loc[:, "close"] = 0.0
        assert provider.fetch("AAPL", *on("2005-02-24", "2005-03-01")).bars["close"].min() > 40


class TestSample(ProviderContract):
    @pytest.fixture
    def provider(self):
        return SampleProvider()


class TestCsv(ProviderContract):
    @pytest.fixture
    def provider(self, csv_folder):
        return CsvProvider(csv_folder)


class TestYahoo(ProviderContract):
    @pytest.fixture
    def provider(self, yahoo):
        return yahoo


class TestAlpaca(ProviderContract):
    @pytest.fixture
    def provider(self, alpaca):
        return alpaca
