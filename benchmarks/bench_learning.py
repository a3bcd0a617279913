"""What a model is learnt from and how: percentile ranks, triple-barrier labels, purged cross-validation.

Ranks against pandas' `rolling().rank()`, which gives the same numbers from another definition; labels against a loop that cuts a
DataFrame for each event, as one writes it first, on a few symbols, scaled; learning against scikit-learn's own `cross_val_predict`
with the same classifier and weights, unpurged, on as many threads as it likes. They take turns in one run; medians.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_predict
from universe import universe

from tradebot.indicators import compute
from tradebot.labels import Barriers, triple_barrier, uniqueness
from tradebot.learning import cross_validate, each_bar, examples, fit
from tradebot.prices import actions_frame

SYMBOLS, SUBSET, ROUNDS, PAST = 100, 2, 5, 252
BARRIERS = Barriers()
FEATURES = ["rsi(14)", "relative_atr(14)", "percentile_rank('relative_atr(14)', 252)", "return_deviation(20)"]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compared(*contestants: Callable[[], object], scale: float = 1.0) -> tuple[float, float, float]:
    "Medians of ours and of the peer in seconds, and of the ratio; `scale` is what the peer's have to be multiplied by."
    for work in contestants:
        work()
    rounds = [[seconds(work) for work in contestants] for _ in range(ROUNDS)]
    ours, peers = ([times[place] for times in rounds] for place in (0, 1))
    ratio = statistics.median(peer * scale / own for own, peer in zip(ours, peers, strict=True))
    return statistics.median(ours), statistics.median(peers) * scale, ratio


def ranked_by_pandas(values: pd.Series) -> pd.Series:
    rolling = values.groupby(level="symbol").rolling(PAST + 1).rank(pct=True).droplevel(0)
    return (rolling * (PAST + 1) - 1) / PAST


def ranks(bars: pd.DataFrame) -> tuple[float, float, float]:
    values = compute(bars, ["relative_atr(14)"]).iloc[:, 0]

    def ours() -> pd.DataFrame:
        return compute(bars, [f"percentile_rank('relative_atr(14)', {PAST})"])

    def peer() -> pd.Series:
        return ranked_by_pandas(compute(bars, ["relative_atr(14)"]).iloc[:, 0])

    np.testing.assert_allclose(ours().iloc[:, 0], ranked_by_pandas(values), atol=1e-9)
    return compared(ours, peer)


def labelled_one_by_one(bars: pd.DataFrame, events: pd.DataFrame) -> list[float]:
    "The gain of each event, NaN where it is not over or its volatility not known."
    gains = []
    for symbol, moment in events.itertuples(index=False):
        own = bars.loc[symbol]
        known = own["close"].pct_change().loc[:moment].tail(BARRIERS.window)
        path = own.loc[moment:].iloc[1 : BARRIERS.horizon + 1]
        if len(path) < BARRIERS.horizon or known.count() < BARRIERS.window:
            gains.append(np.nan)
            continue
        paid, reach = path["open"].iloc[0], known.std()
        upper, lower = paid * (1 + BARRIERS.profit * reach), paid * (1 - BARRIERS.stop * reach)
        price = path["close"].iloc[-1]
        for bar in path.itertuples():
            if bar.open >= upper:
                price = bar.open
            elif bar.low <= lower:
                price = min(bar.open, lower)
            elif bar.high >= upper:
                price = upper
            else:
                continue
            break
        gains.append(price / paid - 1)
    return gains


def labels(bars: pd.DataFrame) -> tuple[float, float, float]:
    events = each_bar(bars, 5)
    few = bars.loc[list(bars.index.levels[0][:SUBSET])]
    some = each_bar(few, 5).sort_values(["symbol", "timestamp"])
    np.testing.assert_allclose(triple_barrier(few, some, BARRIERS)["gain"], labelled_one_by_one(few, some))
    return compared(
        lambda: triple_barrier(bars, events, BARRIERS),
        lambda: labelled_one_by_one(few, some),
        scale=len(events) / len(some),
    )


def learning(bars: pd.DataFrame) -> tuple[float, float, float]:
    found = examples(bars, actions_frame([]), each_bar(bars, 20), FEATURES, BARRIERS)
    plain = clone(fit(found, np.arange(len(found.labels)), found.right))

    def peer() -> np.ndarray:
        weights = uniqueness(found.labels, found.sessions)
        return cross_val_predict(
            plain,
            found.features.to_numpy(),
            found.right,
            cv=KFold(5),
            method="predict_proba",
            params={"sample_weight": weights},
        )

    print(f"{len(found.labels):,} examples of {len(FEATURES)} features are learnt from in five folds")
    return compared(lambda: cross_validate(found), peer)


def main() -> None:
    bars = universe(SYMBOLS)
    print(
        f"{SYMBOLS} symbols, {len(bars):,} bars, {len(each_bar(bars, 5)):,} events; {os.cpu_count()} processors, "
        f"Python {sys.version.split()[0]}, median of {ROUNDS} rounds"
    )
    rows = {
        f"percentile ranks among {PAST} bars, pandas `rolling().rank()`": ranks(bars),
        "triple-barrier labels, a loop over events": labels(bars),
        "cross-validation, scikit-learn's own": learning(bars),
    }
    print("\n| what, and its peer | tradebot, s | peer, s | tradebot is faster by |\n|---|---|---|---|")
    for name, (own, peer, ratio) in rows.items():
        print(f"| {name} | {own:.3f} | {peer:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
