
use builtin;
use str;

set edit:completion:arg-completer[stk] = {|@words|
    fn spaces {|n|
        builtin:repeat $n ' ' | str:join ''
    }
    fn cand {|text desc|
        edit:complex-candidate $text &display=$text' '(spaces (- 14 (wcswidth $text)))$desc
    }
    var command = 'stk'
    for word $words[1..-1] {
        if (str:has-prefix $word '-') {
            break
        }
        set command = $command';'$word
    }
    var completions = [
        &'stk'= {
            cand --config 'Configuration file'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
            cand -V 'Print version'
            cand --version 'Print version'
            cand demo 'See it all at once: a simulated market, the server and the board'
            cand watch 'Watch live prices'
            cand serve 'Take ticks in, store them, serve them'
            cand history 'List trades, quotes or bars of the past'
            cand replay 'Play a capture into a server or a store'
            cand symbols 'List the symbols a server knows'
            cand bench 'Measure what the README states, on this machine'
            cand doctor 'Look for what could be wrong, and say what to do'
            cand config 'Show, check or write the configuration'
            cand completions 'Print shell completions'
            cand man 'Print or write the man pages'
        }
        &'stk;demo'= {
            cand --for 'End by itself after so long: 10s, 2m'
            cand --rate 'Ticks per second'
            cand --symbols 'How many symbols trade'
            cand --seed 'The same seed gives the same market'
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;watch'= {
            cand --server 'Server to talk to: host:port, http://host:port or ws://host:port'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --format 'Print lines instead of the board; without a terminal the default is line'
            cand --filter 'Show only rows that match: a part of the symbol, or a comparison such as ''last<=5'' or ''%>1'''
            cand --sort 'Column to sort by'
            cand --for 'End after this long, such as 10s or 5m'
            cand --config 'Configuration file'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;serve'= {
            cand --feed 'A feed: sim, sim:rate=1000,seed=7,symbols=500, iex:FILE, or kafka:FILE.toml (may be repeated)'
            cand --roles 'What this process does: feed, processor, gateway, archiver, separated by commas; all of them if not given. Fewer share Kafka, ClickHouse and Redis with other processes'
            cand --data 'Directory that holds everything stored'
            cand --listen 'Address and port for clients'
            cand --ingest-listen 'Address and port for programs that bring ticks, on loopback'
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;history'= {
            cand --from 'First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning'
            cand --to 'Last day, whole, or instant, exclusive; without it, the end'
            cand --kind 'What to list'
            cand --timeframe 'Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month'
            cand --format 'table, csv, json, ndjson, parquet or arrow; table on a terminal, otherwise csv'
            cand --limit 'At most so many rows'
            cand -o 'Write to this file instead of stdout'
            cand --output 'Write to this file instead of stdout'
            cand --data 'Read this data directory, which no server may have open, instead of asking a server'
            cand --server 'Server to talk to: host:port, http://host:port or ws://host:port'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --stats 'Say on stderr what the answer cost: bytes and segments read, time to the first row'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;replay'= {
            cand --speed '1 keeps the capture''s own timing, 10 is ten times as fast, max does not wait at all'
            cand --from 'Skip what is before: a day (in New York) or an instant (RFC 3339)'
            cand --to 'Stop at: a day, whole, or an instant'
            cand --symbols 'Play these symbols alone'
            cand --ingest 'Where a running server takes ticks'
            cand --data 'Write into this data directory, which no server may have open'
            cand --config 'Configuration file'
            cand --loop 'Play it again and again, each time as a new session later in time'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;symbols'= {
            cand --server 'Server to talk to: host:port, http://host:port or ws://host:port'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench'= {
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
            cand ingest 'Simulated ticks through the log and the processor into hot and warm, end to end'
            cand decode 'How quickly an IEX capture is decoded'
            cand fanout 'Quotes to many WebSocket connections, beside a bare loop in the same run'
            cand history 'One symbol of median activity out of many stored rows'
            cand watch 'What the board costs under many updates, in a terminal of its own'
        }
        &'stk;bench;ingest'= {
            cand --ticks 'How many ticks'
            cand --symbols 'How many symbols trade'
            cand --rate 'Ticks per second of simulated time: how many days they spread over'
            cand --seed 'The same seed gives the same ticks'
            cand --data 'Keep what is stored in this directory, which must be empty; otherwise it is removed'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;decode'= {
            cand --bytes 'Repeat the capture in memory to at least so many bytes'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;fanout'= {
            cand --connections 'WebSocket connections, each subscribed to all quotes'
            cand --rate 'Messages per second over all connections, or max'
            cand --seconds 'How long each side is measured'
            cand --config 'Configuration file'
            cand --unbound 'Leave the threads to the system instead of binding server and receivers to a core each'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;history'= {
            cand --ticks 'How many ticks'
            cand --symbols 'How many symbols trade'
            cand --rate 'Ticks per second of simulated time: how many days they spread over'
            cand --seed 'The same seed gives the same ticks'
            cand --data 'A directory that `stk bench ingest --data` filled with the same ticks, to be asked as it is; otherwise one is filled and its small segments merged, as a server does'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;watch'= {
            cand --rate 'Updates per second'
            cand --symbols 'How many symbols trade'
            cand --seconds 'How long it is measured, after a warm-up of two seconds'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;doctor'= {
            cand --server 'Server to talk to: host:port, http://host:port or ws://host:port'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --json 'Print everything gathered as JSON, for a bug report'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;config'= {
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
            cand show 'Print every setting, its value, and where that came from'
            cand check 'Check the file and the environment; print nothing when they are good'
            cand init 'Write a file with every setting at its default'
        }
        &'stk;config;show'= {
            cand --config 'Configuration file'
            cand --json 'Print as JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;config;check'= {
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;config;init'= {
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;completions'= {
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;man'= {
            cand --output 'Write every page into this directory instead'
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
    ]
    $completions[$command]
}
