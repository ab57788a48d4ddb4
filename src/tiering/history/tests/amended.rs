//! Trades are marked as what became of them, wherever the word of it is.

use super::*;

/// A row of an answer and what became of it.
type AmendedRow = (Row, Option<TradeUpdate>);

/// As [`trading`], with corrections too.
fn amending() -> impl Strategy<Value = Tick> {
    (trading(), any::<bool>(), any::<bool>(), 1_i64..500).prop_map(|(tick, corrects, renames, price)| {
        match tick {
            Tick::Cancel(cancel) if corrects => {
                let Cancel { symbol, ts, recv_ts, id, price: before, size, exchange, tape, .. } = *cancel;
                let terms = |id, price| TradeTerms { id, price, size, conditions: Conditions::NONE };
                let corrected =
                    terms(if renames { id + 100 } else { id }, Price::from_ten_thousandths(price).unwrap());
                let original = terms(id, before);
                Tick::Correction(Box::new(Correction {
                    symbol,
                    ts,
                    recv_ts,
                    exchange,
                    original,
                    corrected,
                    tape,
                }))
            }
            tick => tick,
        }
    })
}

/// By the book: each trade in a row of its own, and each correction of one; a cancel or correction is
/// about the last that it can be about, of its day.
fn reference(rows: &[Row], query: &HistoryQuery) -> Vec<AmendedRow> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|(_, _, seq, _)| *seq);
    let mut out: Vec<(Seq, Trade, Option<TradeUpdate>)> = Vec::new();
    // Of each trade, in the order they came, the row it stands in; broken ones in none.
    let mut standing: Vec<Option<usize>> = Vec::new();
    for (_, _, seq, tick) in rows {
        let (symbol, day) = (tick.symbol(), tick.ts().trading_day());
        let (exchange, id) = match tick {
            Tick::Trade(trade) => {
                standing.push(Some(out.len()));
                out.push((*seq, *trade, None));
                continue;
            }
            Tick::Cancel(cancel) => (cancel.exchange, cancel.id),
            Tick::Correction(correction) => (correction.exchange, correction.original.id),
            _ => continue,
        };
        let found = standing.iter().rposition(|row| {
            row.is_some_and(|row| {
                let trade = out[row].1;
                (Some(trade.symbol), trade.ts.trading_day()) == (symbol, day) && trade.is_named(exchange, id)
            })
        });
        let Some(at) = found else { continue };
        let Some(row) = standing[at].take() else { continue };
        if let Tick::Correction(correction) = tick {
            out[row].2 = Some(TradeUpdate::Incorrect);
            let mut trade = Trade { recv_ts: correction.recv_ts, ..out[row].1 };
            trade.correct(&correction.corrected);
            standing[at] = Some(out.len());
            out.push((*seq, trade, Some(TradeUpdate::Corrected)));
        } else {
            out[row].2 = Some(TradeUpdate::Canceled);
        }
    }
    let mut out: Vec<AmendedRow> = out
        .into_iter()
        .filter(|(_, trade, _)| query.range.contains(trade.ts))
        .filter(|(_, trade, _)| query.symbols.is_empty() || query.symbols.contains(&trade.symbol))
        .map(|(seq, trade, update)| ((Some(trade.symbol), trade.ts, seq, Tick::Trade(trade)), update))
        .collect();
    out.sort_by_key(|((symbol, ts, seq, _), _)| (*symbol, *ts, *seq));
    out.truncate(query.limit.map_or(usize::MAX, |limit| limit as usize));
    out
}

async fn amended(history: &History, query: HistoryQuery) -> Vec<AmendedRow> {
    let answer = history.query_amended(query).await.unwrap();
    let batches: Vec<AmendedBatch> = answer.rows.try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        assert!(batch.updates.is_empty() || batch.updates.len() == batch.rows.len());
        let view = batch.rows.rows().unwrap();
        rows.extend((0..batch.rows.len()).map(|row| {
            let tick = view.tick(row).unwrap();
            ((view.symbol(row), view.ts(row), view.seq(row), tick), batch.update(row))
        }));
    }
    assert_eq!(answer.stats.lock().unwrap().rows, rows.len() as u64);
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn trades_are_marked_as_what_became_of_them(
        steps in steps(amending()).prop_map(with_unique_ids),
        queries in prop::collection::vec(
            (
                prop::sample::subsequence(&["AAPL", "BRK.B", "MSFT"][..], 0..=3),
                (any::<bool>(), 0_i64..3000, 1_i64..3000),
                prop::option::of(0_u64..20),
            ),
            1..6,
        ),
        tail_rows_max in prop_oneof![Just(u64::MAX), 0_u64..5],
    ) {
        runtime().block_on(async {
            let world = World::after(steps).await;
            let history = History { tail_rows_max, ..world.history() };
            for (symbols, (whole, from, len), limit) in queries {
                let minutes = |minutes: i64| Timestamp::from_nanos(1_763_649_000_000_000_000 + minutes * 60_000_000_000);
                let range = TimeRange { from: minutes(from), to: minutes(from + len) };
                let query = HistoryQuery {
                    symbols: symbols.iter().map(|symbol| symbol.parse().unwrap()).collect(),
                    range: if whole { TimeRange::ALL } else { range },
                    limit,
                    ..all(Kind::Trade)
                };
                let expected = reference(&world.rows, &query);
                assert_eq!(amended(&history, query.clone()).await, expected, "{query:?}");
            }
            drop(world.dir);
        });
    }
}
