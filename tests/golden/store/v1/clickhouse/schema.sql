CREATE TABLE {database}.bar_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `open` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `high` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `low` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `close` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `volume` UInt64 CODEC(Delta(8), ZSTD(1)),
    `trade_count` UInt64 CODEC(Delta(8), ZSTD(1)),
    `open_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `close_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `timeframe` LowCardinality(String) CODEC(ZSTD(1)),
    `notional` Decimal(38, 9) CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.blocks
(
    `partition` UInt16,
    `epoch` UInt32,
    `slot` UInt8,
    `block` UInt64,
    `first_offset` UInt64,
    `next_offset` UInt64,
    `kinds` Array(LowCardinality(String)),
    `days` Array(Date32),
    `rows` Array(UInt64),
    `checkpoint` String CODEC(ZSTD(1)),
    `at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(block)
ORDER BY (partition, epoch, slot)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.cancel_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `price` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `id` UInt64 CODEC(Delta(8), ZSTD(1)),
    `size` UInt32 CODEC(T64, ZSTD(1)),
    `exchange` LowCardinality(String) CODEC(ZSTD(1)),
    `action` LowCardinality(String) CODEC(ZSTD(1)),
    `tape` LowCardinality(String) CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.claims
(
    `partition` UInt16,
    `epoch` UInt32,
    `nonce` String,
    `at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (partition, epoch)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.correction_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `original_price` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `original_id` UInt64 CODEC(Delta(8), ZSTD(1)),
    `corrected_price` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `corrected_id` UInt64 CODEC(Delta(8), ZSTD(1)),
    `original_size` UInt32 CODEC(ZSTD(1)),
    `original_conditions` LowCardinality(String) CODEC(ZSTD(1)),
    `corrected_size` UInt32 CODEC(ZSTD(1)),
    `corrected_conditions` LowCardinality(String) CODEC(ZSTD(1)),
    `exchange` LowCardinality(String) CODEC(ZSTD(1)),
    `tape` LowCardinality(String) CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.gap_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `first` UInt64 CODEC(Delta(8), ZSTD(1)),
    `last` UInt64 CODEC(Delta(8), ZSTD(1)),
    `gap_kind` UInt32 CODEC(T64, ZSTD(1)),
    `source` String CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.marks
(
    `partition` UInt16,
    `epoch` UInt32,
    `entry` Enum8('begin' = 0, 'mark' = 1),
    `follows` UInt32,
    `block` UInt64,
    `next_offset` UInt64,
    `version` UInt64,
    `at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (partition, epoch, entry)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.prev_close_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `price` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.quote_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `bid` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `ask` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `bid_size` UInt32 CODEC(ZSTD(1)),
    `ask_size` UInt32 CODEC(ZSTD(1)),
    `bid_exchange` LowCardinality(String) CODEC(ZSTD(1)),
    `ask_exchange` LowCardinality(String) CODEC(ZSTD(1)),
    `conditions` LowCardinality(String) CODEC(ZSTD(1)),
    `tape` LowCardinality(String) CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.status_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `tape` LowCardinality(String) CODEC(ZSTD(1)),
    `code` String CODEC(ZSTD(1)),
    `message` String CODEC(ZSTD(1)),
    `reason_code` String CODEC(ZSTD(1)),
    `reason_message` String CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.stk_schema
(
    `version` UInt32,
    `program` String,
    `at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY version
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, index_granularity = 8192
;
CREATE TABLE {database}.stored
(
    `kind` LowCardinality(String),
    `day` Date32,
    `at` SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (kind, day)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.trade_rows
(
    `symbol` LowCardinality(String) CODEC(ZSTD(1)),
    `ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `recv_ts` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `price` Decimal(18, 9) CODEC(Delta(8), ZSTD(1)),
    `id` UInt64 CODEC(Delta(8), ZSTD(1)),
    `size` UInt32 CODEC(T64, ZSTD(1)),
    `exchange` LowCardinality(String) CODEC(ZSTD(1)),
    `conditions` LowCardinality(String) CODEC(ZSTD(1)),
    `tape` LowCardinality(String) CODEC(ZSTD(1)),
    `partition` UInt16 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `index` UInt32 CODEC(T64, ZSTD(1)),
    `day` Date32 CODEC(ZSTD(1)),
    `epoch` UInt32 CODEC(ZSTD(1)),
    `block` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX place (partition, block, offset) TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY (symbol, ts, partition, offset, index)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE TABLE {database}.units
(
    `kind` LowCardinality(String),
    `day` Date32,
    `version` UInt64,
    `nonce` String,
    `next_offsets` Array(UInt64),
    `restored` UInt32,
    `generation` UInt32,
    `at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (kind, day)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 8192
;
CREATE VIEW {database}.bars
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `open` Decimal(18, 9),
    `high` Decimal(18, 9),
    `low` Decimal(18, 9),
    `close` Decimal(18, 9),
    `volume` UInt64,
    `trade_count` UInt64,
    `open_ts` DateTime64(9, 'UTC'),
    `close_ts` DateTime64(9, 'UTC'),
    `timeframe` LowCardinality(String),
    `notional` Decimal(38, 9),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'bar'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    open,
    high,
    low,
    close,
    volume,
    trade_count,
    open_ts,
    close_ts,
    timeframe,
    notional,
    partition,
    offset,
    index
FROM {database}.bar_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'bar'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.bars_1m
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `open` Decimal(18, 9),
    `high` Decimal(18, 9),
    `low` Decimal(18, 9),
    `close` Decimal(18, 9),
    `volume` UInt64,
    `trade_count` UInt64,
    `open_ts` DateTime64(9, 'UTC'),
    `close_ts` DateTime64(9, 'UTC'),
    `notional` Decimal(38, 9)
)
AS SELECT
    day,
    symbol,
    ts,
    argMax(bars.open, (bars.offset, bars.index)) AS open,
    argMax(bars.high, (bars.offset, bars.index)) AS high,
    argMax(bars.low, (bars.offset, bars.index)) AS low,
    argMax(bars.close, (bars.offset, bars.index)) AS close,
    argMax(bars.volume, (bars.offset, bars.index)) AS volume,
    argMax(bars.trade_count, (bars.offset, bars.index)) AS trade_count,
    argMax(bars.open_ts, (bars.offset, bars.index)) AS open_ts,
    argMax(bars.close_ts, (bars.offset, bars.index)) AS close_ts,
    argMax(bars.notional, (bars.offset, bars.index)) AS notional
FROM {database}.bars
WHERE timeframe = '1Min'
GROUP BY
    day,
    symbol,
    ts
;
CREATE VIEW {database}.cancels
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `price` Decimal(18, 9),
    `id` UInt64,
    `size` UInt32,
    `exchange` LowCardinality(String),
    `action` LowCardinality(String),
    `tape` LowCardinality(String),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'cancel'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    price,
    id,
    size,
    exchange,
    action,
    tape,
    partition,
    offset,
    index
FROM {database}.cancel_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'cancel'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.corrections
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `original_price` Decimal(18, 9),
    `original_id` UInt64,
    `corrected_price` Decimal(18, 9),
    `corrected_id` UInt64,
    `original_size` UInt32,
    `original_conditions` LowCardinality(String),
    `corrected_size` UInt32,
    `corrected_conditions` LowCardinality(String),
    `exchange` LowCardinality(String),
    `tape` LowCardinality(String),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'correction'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    original_price,
    original_id,
    corrected_price,
    corrected_id,
    original_size,
    original_conditions,
    corrected_size,
    corrected_conditions,
    exchange,
    tape,
    partition,
    offset,
    index
FROM {database}.correction_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'correction'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.dropped
(
    `kind` LowCardinality(String),
    `day` Date32,
    `next_offsets` Array(UInt64),
    `restored` UInt32
)
AS SELECT
    kind,
    day,
    argMax(units.next_offsets, version) AS next_offsets,
    argMax(units.restored, version) AS restored
FROM {database}.units
GROUP BY
    kind,
    day
;
CREATE VIEW {database}.gaps
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `first` UInt64,
    `last` UInt64,
    `gap_kind` UInt32,
    `source` String,
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'gap'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    first,
    last,
    gap_kind,
    source,
    partition,
    offset,
    index
FROM {database}.gap_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'gap'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.prev_closes
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `price` Decimal(18, 9),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'prev_close'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    price,
    partition,
    offset,
    index
FROM {database}.prev_close_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'prev_close'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.quotes
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `bid` Decimal(18, 9),
    `ask` Decimal(18, 9),
    `bid_size` UInt32,
    `ask_size` UInt32,
    `bid_exchange` LowCardinality(String),
    `ask_exchange` LowCardinality(String),
    `conditions` LowCardinality(String),
    `tape` LowCardinality(String),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'quote'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    bid,
    ask,
    bid_size,
    ask_size,
    bid_exchange,
    ask_exchange,
    conditions,
    tape,
    partition,
    offset,
    index
FROM {database}.quote_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'quote'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.standing
(
    `partition` UInt16,
    `epoch` UInt32,
    `block` UInt64,
    `next_offset` UInt64
)
AS SELECT
    partition,
    max(marks.epoch) AS epoch,
    argMax(marks.block, (marks.epoch, marks.block)) AS block,
    argMax(marks.next_offset, (marks.epoch, marks.block)) AS next_offset
FROM {database}.marks
GROUP BY partition
;
CREATE VIEW {database}.statuses
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `tape` LowCardinality(String),
    `code` String,
    `message` String,
    `reason_code` String,
    `reason_message` String,
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'status'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    tape,
    code,
    message,
    reason_code,
    reason_message,
    partition,
    offset,
    index
FROM {database}.status_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'status'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE MATERIALIZED VIEW {database}.stored_by_blocks TO {database}.stored
(
    `kind` LowCardinality(String),
    `day` Date32,
    `at` DateTime64(3, 'UTC')
)
AS SELECT
    kind,
    day,
    at
FROM {database}.blocks
ARRAY JOIN
    kinds AS kind,
    days AS day
;
CREATE VIEW {database}.takeovers
(
    `partition` UInt16,
    `epoch` UInt32,
    `follows` UInt32,
    `block` UInt64
)
AS SELECT
    partition,
    link.1 AS epoch,
    link.2 AS follows,
    link.3 AS block
FROM
(
    SELECT
        partition,
        arrayReverseSort(groupArray((begun, followed, at_block, forgotten))) AS links,
        (arrayFold((past, link) -> if((link.1) = (past.1), (link.2, arrayPushBack(past.2, link)), past), links, ((links[1]).1, CAST([], 'Array(Tuple(UInt32, UInt32, UInt64, UInt8))')))).2 AS chain
    FROM
    (
        SELECT
            partition,
            marks.epoch AS begun,
            any(marks.follows) AS followed,
            any(marks.block) AS at_block,
            toUInt8(max(version) > 0) AS forgotten
        FROM {database}.marks
        WHERE entry = 'begin'
        GROUP BY
            partition,
            begun
    )
    GROUP BY partition
)
ARRAY JOIN chain AS link
WHERE (link.4) = 0
;
CREATE VIEW {database}.trades
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `recv_ts` DateTime64(9, 'UTC'),
    `price` Decimal(18, 9),
    `id` UInt64,
    `size` UInt32,
    `exchange` LowCardinality(String),
    `conditions` LowCardinality(String),
    `tape` LowCardinality(String),
    `partition` UInt16,
    `offset` UInt64,
    `index` UInt32
)
AS WITH
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(block))
        FROM {database}.standing
    ) AS blocks_of,
    (
        SELECT mapFromArrays(groupArray(partition), groupArray(epoch))
        FROM {database}.standing
    ) AS epochs_of,
    (
        SELECT groupArray((partition, epoch, follows, block))
        FROM {database}.takeovers
    ) AS taken,
    (
        SELECT groupArray((day, next_offsets, restored))
        FROM {database}.dropped
        WHERE kind = 'trade'
    ) AS gone
SELECT
    day,
    symbol,
    ts,
    recv_ts,
    price,
    id,
    size,
    exchange,
    conditions,
    tape,
    partition,
    offset,
    index
FROM {database}.trade_rows
WHERE ((epoch <= (epochs_of[partition])) AND (block <= (blocks_of[partition])) AND (NOT arrayExists(t -> (((t.1) = partition) AND (epoch < (t.2)) AND ((block > (t.4)) OR (epoch > (t.3)))), taken)) AND ((day NOT IN (
    SELECT day
    FROM {database}.dropped
    WHERE kind = 'trade'
)) OR (NOT arrayExists(g -> (((g.1) = day) AND (offset < ((g.2)[toUInt32(partition) + 1]))), gone)))) OR ((epoch >= 2147483648) AND arrayExists(g -> (((g.1) = day) AND ((g.3) = epoch)), gone))
;
CREATE VIEW {database}.bars_1d
(
    `day` Date32,
    `symbol` LowCardinality(String),
    `ts` DateTime64(9, 'UTC'),
    `open` Decimal(18, 9),
    `high` Decimal(18, 9),
    `low` Decimal(18, 9),
    `close` Decimal(18, 9),
    `volume` UInt64,
    `trade_count` UInt64,
    `open_ts` DateTime64(9, 'UTC'),
    `close_ts` DateTime64(9, 'UTC'),
    `notional` Decimal(38, 9)
)
AS SELECT
    day,
    symbol,
    ts,
    argMax(bars.open, (bars.offset, bars.index)) AS open,
    argMax(bars.high, (bars.offset, bars.index)) AS high,
    argMax(bars.low, (bars.offset, bars.index)) AS low,
    argMax(bars.close, (bars.offset, bars.index)) AS close,
    argMax(bars.volume, (bars.offset, bars.index)) AS volume,
    argMax(bars.trade_count, (bars.offset, bars.index)) AS trade_count,
    argMax(bars.open_ts, (bars.offset, bars.index)) AS open_ts,
    argMax(bars.close_ts, (bars.offset, bars.index)) AS close_ts,
    argMax(bars.notional, (bars.offset, bars.index)) AS notional
FROM {database}.bars
WHERE timeframe = '1Day'
GROUP BY
    day,
    symbol,
    ts
;
