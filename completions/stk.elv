
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
            cand archive 'Move old days into the archive, see what is there, and bring it back'
            cand backup 'Copy the data directory of this machine while a server uses it, and put the copy back'
            cand audit 'Say where the chain from feed to log to warm to archive holds, and where it does not'
            cand replay 'Play a capture into a server or a store'
            cand symbols 'List the symbols a server knows'
            cand bench 'Measure what the README states, on this machine'
            cand doctor 'Look for what could be wrong, and say what to do'
            cand config 'Show, check or write the configuration'
            cand completions 'Print shell completions'
            cand man 'Print or write the man pages'
            cand help 'Print the help of a command'
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
            cand --allow-anonymous 'Serve everybody who reaches the address, without keys'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;history'= {
            cand --from 'First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning'
            cand --to 'Last day, whole, or instant, exclusive; without it, the end'
            cand --kind 'What to list'
            cand --timeframe 'Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month'
            cand --format 'table, csv, json, ndjson, parquet or arrow; otherwise by the ending of --output, else table on a terminal and csv elsewhere'
            cand --limit 'At most so many rows'
            cand -o 'Write to this file instead of stdout (-)'
            cand --output 'Write to this file instead of stdout (-)'
            cand --restore-tier 'How quickly: expedited, standard or bulk (see `stk archive restore`)'
            cand --restore-days 'How many days the copies can be read'
            cand --data 'Read this data directory, which no server may have open, instead of asking a server'
            cand --server 'Server to talk to: host:port, http://host:port or ws://host:port'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --stats 'Say on stderr what the answer cost: bytes and segments read, time to the first row'
            cand --restore 'Bring back what of the answer is archived, after a word on cost and time, and wait for it'
            cand --yes 'Do not ask before --restore'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;archive'= {
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
            cand run 'Copy closed days into the archive, drop from warm what has been there long enough'
            cand status 'Show where each day stands'
            cand list 'List what the archive holds'
            cand verify 'Read archived objects again and compare them with their manifests'
            cand restore 'Bring archived days back to where they can be read, or into warm'
            cand adopt 'Make this log the archive''s own after it was put back from a backup, or lost'
            cand give-up 'Give up days that warm has dropped and no archive holds any more'
            cand copy 'Copy the archive to another place, and verify the copy before archive.url is changed'
            cand lifecycle 'Show or set at which age archived days go to Glacier and Deep Archive'
        }
        &'stk;archive;run'= {
            cand --before 'Copy the days before this one, whatever their age'
            cand --kind 'Copy and drop these kinds alone'
            cand --limit-bandwidth 'Bytes of data objects a second to and from the archive, at most: 20MB'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --dry-run 'Show what would be done, and do nothing'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;status'= {
            cand --kind 'These kinds alone'
            cand --from 'Days from this one on'
            cand --to 'Days up to this one'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;archive;list'= {
            cand --kind 'These kinds alone'
            cand --from 'Days from this one on'
            cand --to 'Days up to this one'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;archive;verify'= {
            cand --bytes 'End after so many bytes, with the object in which they are reached: 10GB'
            cand --time 'End after so long, with the object in which it is reached: 30m'
            cand --limit-bandwidth 'Bytes of data objects a second from the archive, at most: 20MB'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --restart 'Begin anew'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;restore'= {
            cand --from 'First trading day; without it, the first there is'
            cand --to 'Last trading day; without it, the last there is'
            cand --kind 'Kinds of rows, separated by commas: trade, quote, bar, …; without it, all'
            cand --tier 'How quickly: expedited (minutes, not from Deep Archive), standard (hours), bulk (up to two days)'
            cand --days 'How many days the copies can be read'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --wait 'Wait until all can be read, and show how far it is'
            cand --into-warm 'Copy the rows back into warm, and verify that they equal what was archived'
            cand --dry-run 'Say what it would take and cost, and do nothing'
            cand -y 'Do not ask'
            cand --yes 'Do not ask'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;adopt'= {
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --yes 'Do it; without this only the plan is shown'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;give-up'= {
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --yes 'Do it; without this only the plan is shown'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;copy'= {
            cand --limit-bandwidth 'Bytes per second from and to each archive, at most: 20MB'
            cand --from-endpoint 'Endpoint of the bucket that FROM names, if not `archive.s3_endpoint`'
            cand --to-endpoint 'Endpoint of the bucket that TO names, if not `archive.s3_endpoint`'
            cand --from-region 'Region of the bucket that FROM names, if not `archive.s3_region`'
            cand --to-region 'Region of the bucket that TO names, if not `archive.s3_region`'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --own 'Copy only what belongs to the timeline of this log (--data), from an archive of several timelines'
            cand --dry-run 'Show what would be copied, and do nothing'
            cand -y 'Do not ask'
            cand --yes 'Do not ask'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;archive;lifecycle'= {
            cand --glacier-after 'Move data objects to Glacier (minutes to hours to read) at this age'
            cand --deep-archive-after 'Move data objects to Deep Archive (hours to days to read) at this age'
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --config 'Configuration file'
            cand --none 'Keep all data objects where they can be read at once: removes the rule'
            cand --dry-run 'Show the plan, and change nothing'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;backup'= {
            cand --data 'Data directory to back up, or to restore to'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
            cand create 'Copy the data directory to an empty directory, while a server uses it or not'
            cand verify 'Read a backup whole: checksums of all files, then every record and row'
            cand restore 'Verify a backup and put it back to an empty data directory (--data)'
        }
        &'stk;backup;create'= {
            cand --data 'Data directory to back up, or to restore to'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;backup;verify'= {
            cand --data 'Data directory to back up, or to restore to'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;backup;restore'= {
            cand --data 'Data directory to back up, or to restore to'
            cand --config 'Configuration file'
            cand --json 'Print JSON'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'stk;audit'= {
            cand --data 'Data directory to open; refused while a server has it open'
            cand --url 'Archive to open: a directory or `s3://bucket/prefix`'
            cand --server 'Have the server at this address do it, instead of opening the stores'
            cand --key-id 'Key to show to the server'
            cand --secret-key 'The key''s secret; better set in the environment than on the command line'
            cand --day 'This day alone'
            cand --from 'Days from this one on'
            cand --to 'Days up to this one'
            cand --kind 'These kinds alone'
            cand --config 'Configuration file'
            cand --json 'Print JSON, one object a line: partitions, producers, gaps, lost records, units, their rows, findings, the total'
            cand --repair 'Build damaged or missing files and objects again from another tier; the plan is shown first'
            cand -y 'Do not ask before --repair'
            cand --yes 'Do not ask before --repair'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
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
            cand --again 'Store the capture a second time, as a new session, though some or all of it is stored already'
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
            cand warm-insert 'Blocks into ClickHouse, beside posting ready-made files of the same rows'
            cand archive 'Stored days into an archive, proven equal on the way'
            cand readers 'What clients that do not read cost those that do'
            cand watch 'What the board costs under many updates, in a terminal of its own'
        }
        &'stk;bench;ingest'= {
            cand --ticks 'How many ticks'
            cand --symbols 'How many symbols trade'
            cand --rate 'Ticks per second of simulated time: how many days they spread over'
            cand --seed 'The same seed gives the same ticks'
            cand --data 'Keep what is stored in this directory, which must be empty; otherwise it is removed. What goes into servers that the configuration names stays there'
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
        &'stk;bench;warm-insert'= {
            cand --url 'ClickHouse''s HTTP address; otherwise the setting `warm.clickhouse_url`'
            cand --ticks 'How many ticks'
            cand --symbols 'How many symbols trade'
            cand --rate 'Ticks per second of simulated time: how many days they spread over'
            cand --seed 'The same seed gives the same ticks'
            cand --capture 'The ticks of an IEX capture (TOPS 1.6) instead of simulated ones'
            cand --rounds 'How often both ways are measured; the figures are of the median round'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;archive'= {
            cand --ticks 'How many ticks'
            cand --symbols 'How many symbols trade'
            cand --rate 'Ticks per second of simulated time: how many days they spread over'
            cand --seed 'The same seed gives the same ticks'
            cand --data 'A data directory whose closed days are archived, as `stk bench ingest --data` or `stk replay --data` left it (its rows stay); otherwise one is filled, and the memory that took is counted'
            cand --url 'Where the archive is written: an empty directory or `s3://bucket/prefix`; otherwise a directory that is removed'
            cand --symbol 'Whose quotes of the first day are read again; otherwise those of the simulated market''s symbol of median activity'
            cand --config 'Configuration file'
            cand --json 'Print one JSON object'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'stk;bench;readers'= {
            cand --good 'WebSocket clients that read, each subscribed to all quotes'
            cand --streams 'WebSocket clients that do not read, each with a subscription of its own'
            cand --history 'Requests for all of history that are not read'
            cand --rate 'Quotes per second'
            cand --seconds 'How long each phase is measured; `later` figures exclude the first second'
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
        &'stk;help'= {
            cand --config 'Configuration file'
            cand -h 'Print help'
            cand --help 'Print help'
        }
    ]
    $completions[$command]
}
