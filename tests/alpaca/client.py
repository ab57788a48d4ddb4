"""A program that knows Alpaca alone: alpaca-py, unchanged, pointed at the server given by its address.

Prints one JSON object of what it got, for tests/alpaca.rs.
"""

import json
import sys
import threading
from datetime import datetime, timezone

from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.live import StockDataStream
from alpaca.data.requests import (
    StockBarsRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockQuotesRequest,
    StockSnapshotRequest,
    StockTradesRequest,
)
from alpaca.data.timeframe import TimeFrame

address, live_symbol, past_symbol = sys.argv[1:4]


def live(symbol, quotes_wanted, trades_wanted):
    """Streams until so many quotes and trades have come."""
    got = {"quotes": [], "trades": []}
    stream = StockDataStream("key", "secret", url_override=f"ws://{address}/v2/stk")

    def enough():
        return len(got["quotes"]) >= quotes_wanted and len(got["trades"]) >= trades_wanted

    async def on_quote(quote):
        got["quotes"].append(quote)
        if enough():
            await stream.stop_ws()

    async def on_trade(trade):
        got["trades"].append(trade)
        if enough():
            await stream.stop_ws()

    stream.subscribe_quotes(on_quote, symbol)
    stream.subscribe_trades(on_trade, symbol)
    runner = threading.Thread(target=stream.run, daemon=True)
    runner.start()
    runner.join(timeout=60)
    if not enough():
        sys.exit(f"only {len(got['quotes'])} quotes and {len(got['trades'])} trades came")
    return got


def past(symbol):
    """What REST answers, the pages put together by the client."""
    client = StockHistoricalDataClient("key", "secret", url_override=f"http://{address}")
    start = datetime(2025, 3, 7, tzinfo=timezone.utc)
    end = datetime(2025, 3, 8, tzinfo=timezone.utc)
    trades = client.get_stock_trades(StockTradesRequest(symbol_or_symbols=symbol, start=start, end=end))
    quotes = client.get_stock_quotes(StockQuotesRequest(symbol_or_symbols=symbol, start=start, end=end))
    bars = client.get_stock_bars(
        StockBarsRequest(symbol_or_symbols=symbol, timeframe=TimeFrame.Minute, start=start, end=end)
    )
    latest_trade = client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=symbol))
    latest_quote = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=symbol))
    snapshot = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=symbol))
    return {
        "trades": len(trades[symbol]),
        "first_trade_price": trades[symbol][0].price,
        "trade_ids_rise": [t.id for t in trades[symbol]] == sorted(t.id for t in trades[symbol]),
        "quotes": len(quotes[symbol]),
        "bars": len(bars[symbol]),
        "bars_volume": sum(bar.volume for bar in bars[symbol]),
        "latest_trade_id": latest_trade[symbol].id,
        "latest_bid": latest_quote[symbol].bid_price,
        "snapshot_volume": snapshot[symbol].daily_bar.volume,
    }


streamed = live(live_symbol, 20, 3)
print(
    json.dumps(
        {
            "symbols": sorted({tick.symbol for kind in streamed.values() for tick in kind}),
            "quotes": len(streamed["quotes"]),
            "trades": len(streamed["trades"]),
            "quotes_are_sound": all(q.ask_price > q.bid_price > 0 for q in streamed["quotes"]),
            "times_have_zones": all(t.timestamp.tzinfo is not None for t in streamed["trades"]),
            "past": past(past_symbol),
        }
    )
)
