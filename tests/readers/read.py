"""Reads an archive with DuckDB, polars and pyarrow as it lies, and prints what its rows add up to."""

import decimal
import json
import sys

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds

root = sys.argv[1]


def with_duckdb():
    def table(kind):
        return f"read_parquet('{root}/kind={kind}/*/*.parquet', hive_partitioning=true)"

    def one(sql):
        return duckdb.sql(sql).fetchall()[0]

    rows, size, price = one(f"select count(*), sum(size), sum(price) from {table('trade')} where date is not null")
    symbol, of_symbol = one(f"select symbol, count(*) from {table('trade')} group by symbol order by 2 desc, 1")
    filtered = one(f"select count(*), min(ts) <= max(ts) from {table('trade')} where symbol = '{symbol}'")
    assert filtered[1]
    return {
        "trades": rows,
        "quotes": one(f"select count(*) from {table('quote')} where bid <= ask and ts <= recv_ts")[0],
        "trade": summed(rows, size, price),
        "one_symbol": filtered[0],
        "all_symbols": of_symbol,
    }


def with_polars():
    def table(kind):
        return pl.scan_parquet(f"{root}/kind={kind}/*/*.parquet", hive_partitioning=True)

    trades, quotes = table("trade").filter(pl.col("date").is_not_null()), table("quote")
    rows, size, price = trades.select(pl.len(), pl.col("size").sum(), pl.col("price").sum()).collect().row(0)
    by_symbol = trades.group_by("symbol").len("rows").sort(["rows", "symbol"], descending=[True, False])
    symbol, of_symbol = by_symbol.collect().row(0)
    sound = quotes.filter(pl.col("bid") <= pl.col("ask"), pl.col("ts") <= pl.col("recv_ts"))
    return {
        "trades": rows,
        "quotes": sound.select(pl.len()).collect().item(),
        "trade": summed(rows, size, price),
        "one_symbol": table("trade").filter(pl.col("symbol") == symbol).select(pl.len()).collect().item(),
        "all_symbols": of_symbol,
    }


def with_pyarrow():
    def table(kind):
        return ds.dataset(f"{root}/kind={kind}", format="parquet", partitioning="hive")

    trades, quotes = table("trade").to_table(), table("quote").to_table()
    counts = {entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(trades["symbol"])}
    symbol = max(sorted(counts), key=counts.get)
    filtered = table("trade").to_table(filter=pc.field("symbol") == symbol)
    sound = pc.and_(pc.less_equal(quotes["bid"], quotes["ask"]), pc.less_equal(quotes["ts"], quotes["recv_ts"]))
    prices = sum((price.as_py() for price in trades["price"]), decimal.Decimal(0))
    return {
        "trades": trades.num_rows,
        "quotes": quotes.filter(sound).num_rows,
        "trade": summed(trades.num_rows, pc.sum(trades["size"]).as_py(), prices),
        "one_symbol": filtered.num_rows,
        "all_symbols": counts[symbol],
    }


def summed(rows, size, price):
    return {"rows": rows, "size": int(size), "price_nanos": str(int(price.scaleb(9)))}


print(json.dumps({"duckdb": with_duckdb(), "polars": with_polars(), "pyarrow": with_pyarrow()}))
