# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_stk_global_optspecs
    string join \n config= h/help V/version
end

function __fish_stk_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_stk_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_stk_using_subcommand
    set -l cmd (__fish_stk_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c stk -n "__fish_stk_needs_command" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_needs_command" -s V -l version -d 'Print version'
complete -c stk -n "__fish_stk_needs_command" -f -a "demo" -d 'See it all at once: a simulated market, the server and the board'
complete -c stk -n "__fish_stk_needs_command" -f -a "watch" -d 'Watch live prices'
complete -c stk -n "__fish_stk_needs_command" -f -a "serve" -d 'Take ticks in, store them, serve them'
complete -c stk -n "__fish_stk_needs_command" -f -a "history" -d 'List trades, quotes or bars of the past'
complete -c stk -n "__fish_stk_needs_command" -f -a "archive" -d 'Move old days into the archive, see what is there, and bring it back'
complete -c stk -n "__fish_stk_needs_command" -f -a "backup" -d 'Copy the data directory of this machine while a server uses it, and put the copy back'
complete -c stk -n "__fish_stk_needs_command" -f -a "audit" -d 'Say where the chain from feed to log to warm to archive holds, and where it does not'
complete -c stk -n "__fish_stk_needs_command" -f -a "replay" -d 'Play a capture into a server or a store'
complete -c stk -n "__fish_stk_needs_command" -f -a "symbols" -d 'List the symbols a server knows'
complete -c stk -n "__fish_stk_needs_command" -f -a "bench" -d 'Measure what the README states, on this machine'
complete -c stk -n "__fish_stk_needs_command" -f -a "doctor" -d 'Look for what could be wrong, and say what to do'
complete -c stk -n "__fish_stk_needs_command" -f -a "config" -d 'Show, check or write the configuration'
complete -c stk -n "__fish_stk_needs_command" -f -a "completions" -d 'Print shell completions'
complete -c stk -n "__fish_stk_needs_command" -f -a "man" -d 'Print or write the man pages'
complete -c stk -n "__fish_stk_needs_command" -f -a "help" -d 'Print the help of a command'
complete -c stk -n "__fish_stk_using_subcommand demo" -l for -d 'End by itself after so long: 10s, 2m' -r
complete -c stk -n "__fish_stk_using_subcommand demo" -l rate -d 'Ticks per second' -r
complete -c stk -n "__fish_stk_using_subcommand demo" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand demo" -l seed -d 'The same seed gives the same market' -r
complete -c stk -n "__fish_stk_using_subcommand demo" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand demo" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand watch" -l server -d 'Server to talk to: host:port, http://host:port or ws://host:port' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l format -d 'Print lines instead of the board; without a terminal the default is line' -r -f -a "json\t'A JSON object a line, as Alpaca\'s stream has them'
csv\t'Comma-separated values with a header'
line\t'For people'"
complete -c stk -n "__fish_stk_using_subcommand watch" -l filter -d 'Show only rows that match: a part of the symbol, or a comparison such as \'last<=5\' or \'%>1\'' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l sort -d 'Column to sort by' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l for -d 'End after this long, such as 10s or 5m' -r
complete -c stk -n "__fish_stk_using_subcommand watch" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand serve" -l feed -d 'A feed: sim, sim:rate=1000,seed=7,symbols=500, iex:FILE, or kafka:FILE.toml (may be repeated)' -r
complete -c stk -n "__fish_stk_using_subcommand serve" -l roles -d 'What this process does: feed, processor, gateway, archiver, separated by commas; all of them if not given. Fewer share Kafka, ClickHouse and Redis with other processes' -r
complete -c stk -n "__fish_stk_using_subcommand serve" -l data -d 'Directory that holds everything stored' -r -F
complete -c stk -n "__fish_stk_using_subcommand serve" -l listen -d 'Address and port for clients' -r
complete -c stk -n "__fish_stk_using_subcommand serve" -l ingest-listen -d 'Address and port for programs that bring ticks, on loopback' -r
complete -c stk -n "__fish_stk_using_subcommand serve" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand serve" -l allow-anonymous -d 'Serve everybody who reaches the address, without keys'
complete -c stk -n "__fish_stk_using_subcommand serve" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand history" -l from -d 'First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l to -d 'Last day, whole, or instant, exclusive; without it, the end' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l kind -d 'What to list' -r -f -a "trades\t''
quotes\t''
bars\t''"
complete -c stk -n "__fish_stk_using_subcommand history" -l timeframe -d 'Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l format -d 'table, csv, json, ndjson, parquet or arrow; otherwise by the ending of --output, else table on a terminal and csv elsewhere' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l limit -d 'At most so many rows' -r
complete -c stk -n "__fish_stk_using_subcommand history" -s o -l output -d 'Write to this file instead of stdout (-)' -r -F
complete -c stk -n "__fish_stk_using_subcommand history" -l restore-tier -d 'How quickly: expedited, standard or bulk (see `stk archive restore`)' -r -f -a "expedited\t''
standard\t''
bulk\t''"
complete -c stk -n "__fish_stk_using_subcommand history" -l restore-days -d 'How many days the copies can be read' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l data -d 'Read this data directory, which no server may have open, instead of asking a server' -r -F
complete -c stk -n "__fish_stk_using_subcommand history" -l server -d 'Server to talk to: host:port, http://host:port or ws://host:port' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand history" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand history" -l stats -d 'Say on stderr what the answer cost: bytes and segments read, time to the first row'
complete -c stk -n "__fish_stk_using_subcommand history" -l restore -d 'Bring back what of the answer is archived, after a word on cost and time, and wait for it'
complete -c stk -n "__fish_stk_using_subcommand history" -l yes -d 'Do not ask before --restore'
complete -c stk -n "__fish_stk_using_subcommand history" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "run" -d 'Copy closed days into the archive, drop from warm what has been there long enough'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "status" -d 'Show where each day stands'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "list" -d 'List what the archive holds'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "verify" -d 'Read archived objects again and compare them with their manifests'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "restore" -d 'Bring archived days back to where they can be read, or into warm'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "adopt" -d 'Make this log the archive\'s own after it was put back from a backup, or lost'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "give-up" -d 'Give up days that warm has dropped and no archive holds any more'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "copy" -d 'Copy the archive to another place, and verify the copy before archive.url is changed'
complete -c stk -n "__fish_stk_using_subcommand archive; and not __fish_seen_subcommand_from run status list verify restore adopt give-up copy lifecycle" -f -a "lifecycle" -d 'Show or set at which age archived days go to Glacier and Deep Archive'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l before -d 'Copy the days before this one, whatever their age' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l kind -d 'Copy and drop these kinds alone' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l limit-bandwidth -d 'Bytes of data objects a second to and from the archive, at most: 20MB' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l dry-run -d 'Show what would be done, and do nothing'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l kind -d 'These kinds alone' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l from -d 'Days from this one on' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l to -d 'Days up to this one' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l kind -d 'These kinds alone' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l from -d 'Days from this one on' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l to -d 'Days up to this one' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l bytes -d 'End after so many bytes, with the object in which they are reached: 10GB' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l time -d 'End after so long, with the object in which it is reached: 30m' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l limit-bandwidth -d 'Bytes of data objects a second from the archive, at most: 20MB' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l restart -d 'Begin anew'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l from -d 'First trading day; without it, the first there is' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l to -d 'Last trading day; without it, the last there is' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l kind -d 'Kinds of rows, separated by commas: trade, quote, bar, …; without it, all' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l tier -d 'How quickly: expedited (minutes, not from Deep Archive), standard (hours), bulk (up to two days)' -r -f -a "expedited\t''
standard\t''
bulk\t''"
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l days -d 'How many days the copies can be read' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l wait -d 'Wait until all can be read, and show how far it is'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l into-warm -d 'Copy the rows back into warm, and verify that they equal what was archived'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l dry-run -d 'Say what it would take and cost, and do nothing'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -s y -l yes -d 'Do not ask'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l yes -d 'Do it; without this only the plan is shown'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from adopt" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l yes -d 'Do it; without this only the plan is shown'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from give-up" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l limit-bandwidth -d 'Bytes per second from and to each archive, at most: 20MB' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l from-endpoint -d 'Endpoint of the bucket that FROM names, if not `archive.s3_endpoint`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l to-endpoint -d 'Endpoint of the bucket that TO names, if not `archive.s3_endpoint`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l from-region -d 'Region of the bucket that FROM names, if not `archive.s3_region`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l to-region -d 'Region of the bucket that TO names, if not `archive.s3_region`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l own -d 'Copy only what belongs to the timeline of this log (--data), from an archive of several timelines'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l dry-run -d 'Show what would be copied, and do nothing'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -s y -l yes -d 'Do not ask'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from copy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l glacier-after -d 'Move data objects to Glacier (minutes to hours to read) at this age' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l deep-archive-after -d 'Move data objects to Deep Archive (hours to days to read) at this age' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l none -d 'Keep all data objects where they can be read at once: removes the rule'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l dry-run -d 'Show the plan, and change nothing'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand archive; and __fish_seen_subcommand_from lifecycle" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -l data -d 'Data directory to back up, or to restore to' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -f -a "create" -d 'Copy the data directory to an empty directory, while a server uses it or not'
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -f -a "verify" -d 'Read a backup whole: checksums of all files, then every record and row'
complete -c stk -n "__fish_stk_using_subcommand backup; and not __fish_seen_subcommand_from create verify restore" -f -a "restore" -d 'Verify a backup and put it back to an empty data directory (--data)'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from create" -l data -d 'Data directory to back up, or to restore to' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from create" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from create" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from verify" -l data -d 'Data directory to back up, or to restore to' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from verify" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from verify" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from restore" -l data -d 'Data directory to back up, or to restore to' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from restore" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from restore" -l json -d 'Print JSON'
complete -c stk -n "__fish_stk_using_subcommand backup; and __fish_seen_subcommand_from restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand audit" -l data -d 'Data directory to open; refused while a server has it open' -r -F
complete -c stk -n "__fish_stk_using_subcommand audit" -l url -d 'Archive to open: a directory or `s3://bucket/prefix`' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l server -d 'Have the server at this address do it, instead of opening the stores' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l day -d 'This day alone' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l from -d 'Days from this one on' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l to -d 'Days up to this one' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l kind -d 'These kinds alone' -r
complete -c stk -n "__fish_stk_using_subcommand audit" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand audit" -l json -d 'Print JSON, one object a line: partitions, producers, gaps, lost records, units, their rows, findings, the total'
complete -c stk -n "__fish_stk_using_subcommand audit" -l repair -d 'Build damaged or missing files and objects again from another tier; the plan is shown first'
complete -c stk -n "__fish_stk_using_subcommand audit" -s y -l yes -d 'Do not ask before --repair'
complete -c stk -n "__fish_stk_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c stk -n "__fish_stk_using_subcommand replay" -l speed -d '1 keeps the capture\'s own timing, 10 is ten times as fast, max does not wait at all' -r
complete -c stk -n "__fish_stk_using_subcommand replay" -l from -d 'Skip what is before: a day (in New York) or an instant (RFC 3339)' -r
complete -c stk -n "__fish_stk_using_subcommand replay" -l to -d 'Stop at: a day, whole, or an instant' -r
complete -c stk -n "__fish_stk_using_subcommand replay" -l symbols -d 'Play these symbols alone' -r
complete -c stk -n "__fish_stk_using_subcommand replay" -l ingest -d 'Where a running server takes ticks' -r
complete -c stk -n "__fish_stk_using_subcommand replay" -l data -d 'Write into this data directory, which no server may have open' -r -F
complete -c stk -n "__fish_stk_using_subcommand replay" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand replay" -l loop -d 'Play it again and again, each time as a new session later in time'
complete -c stk -n "__fish_stk_using_subcommand replay" -l again -d 'Store the capture a second time, as a new session, though some or all of it is stored already'
complete -c stk -n "__fish_stk_using_subcommand replay" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand symbols" -l server -d 'Server to talk to: host:port, http://host:port or ws://host:port' -r
complete -c stk -n "__fish_stk_using_subcommand symbols" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand symbols" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand symbols" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand symbols" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "ingest" -d 'Simulated ticks through the log and the processor into hot and warm, end to end'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "decode" -d 'How quickly an IEX capture is decoded'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "fanout" -d 'Quotes to many WebSocket connections, beside a bare loop in the same run'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "history" -d 'One symbol of median activity out of many stored rows'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "warm-insert" -d 'Blocks into ClickHouse, beside posting ready-made files of the same rows'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "archive" -d 'Stored days into an archive, proven equal on the way'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "readers" -d 'What clients that do not read cost those that do'
complete -c stk -n "__fish_stk_using_subcommand bench; and not __fish_seen_subcommand_from ingest decode fanout history warm-insert archive readers watch" -f -a "watch" -d 'What the board costs under many updates, in a terminal of its own'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l ticks -d 'How many ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l rate -d 'Ticks per second of simulated time: how many days they spread over' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l seed -d 'The same seed gives the same ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l data -d 'Keep what is stored in this directory, which must be empty; otherwise it is removed. What goes into servers that the configuration names stays there' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from ingest" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from decode" -l bytes -d 'Repeat the capture in memory to at least so many bytes' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from decode" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from decode" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from decode" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l connections -d 'WebSocket connections, each subscribed to all quotes' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l rate -d 'Messages per second over all connections, or max' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l seconds -d 'How long each side is measured' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l unbound -d 'Leave the threads to the system instead of binding server and receivers to a core each'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from fanout" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l ticks -d 'How many ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l rate -d 'Ticks per second of simulated time: how many days they spread over' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l seed -d 'The same seed gives the same ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l data -d 'A directory that `stk bench ingest --data` filled with the same ticks, to be asked as it is; otherwise one is filled and its small segments merged, as a server does' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from history" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l url -d 'ClickHouse\'s HTTP address; otherwise the setting `warm.clickhouse_url`' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l ticks -d 'How many ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l rate -d 'Ticks per second of simulated time: how many days they spread over' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l seed -d 'The same seed gives the same ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l capture -d 'The ticks of an IEX capture (TOPS 1.6) instead of simulated ones' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l rounds -d 'How often both ways are measured; the figures are of the median round' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from warm-insert" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l ticks -d 'How many ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l rate -d 'Ticks per second of simulated time: how many days they spread over' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l seed -d 'The same seed gives the same ticks' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l data -d 'A data directory whose closed days are archived, as `stk bench ingest --data` or `stk replay --data` left it (its rows stay); otherwise one is filled, and the memory that took is counted' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l url -d 'Where the archive is written: an empty directory or `s3://bucket/prefix`; otherwise a directory that is removed' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l symbol -d 'Whose quotes of the first day are read again; otherwise those of the simulated market\'s symbol of median activity' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from archive" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l good -d 'WebSocket clients that read, each subscribed to all quotes' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l streams -d 'WebSocket clients that do not read, each with a subscription of its own' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l history -d 'Requests for all of history that are not read' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l rate -d 'Quotes per second' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l seconds -d 'How long each phase is measured; `later` figures exclude the first second' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from readers" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -l rate -d 'Updates per second' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -l symbols -d 'How many symbols trade' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -l seconds -d 'How long it is measured, after a warm-up of two seconds' -r
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -l json -d 'Print one JSON object'
complete -c stk -n "__fish_stk_using_subcommand bench; and __fish_seen_subcommand_from watch" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand doctor" -l server -d 'Server to talk to: host:port, http://host:port or ws://host:port' -r
complete -c stk -n "__fish_stk_using_subcommand doctor" -l key-id -d 'Key to show to the server' -r
complete -c stk -n "__fish_stk_using_subcommand doctor" -l secret-key -d 'The key\'s secret; better set in the environment than on the command line' -r
complete -c stk -n "__fish_stk_using_subcommand doctor" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand doctor" -l json -d 'Print everything gathered as JSON, for a bug report'
complete -c stk -n "__fish_stk_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand config; and not __fish_seen_subcommand_from show check init" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand config; and not __fish_seen_subcommand_from show check init" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand config; and not __fish_seen_subcommand_from show check init" -f -a "show" -d 'Print every setting, its value, and where that came from'
complete -c stk -n "__fish_stk_using_subcommand config; and not __fish_seen_subcommand_from show check init" -f -a "check" -d 'Check the file and the environment; print nothing when they are good'
complete -c stk -n "__fish_stk_using_subcommand config; and not __fish_seen_subcommand_from show check init" -f -a "init" -d 'Write a file with every setting at its default'
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from show" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'Print as JSON'
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from check" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from init" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand config; and __fish_seen_subcommand_from init" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand completions" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand completions" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand man" -l output -d 'Write every page into this directory instead' -r -F
complete -c stk -n "__fish_stk_using_subcommand man" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand man" -s h -l help -d 'Print help'
complete -c stk -n "__fish_stk_using_subcommand help" -l config -d 'Configuration file' -r -F
complete -c stk -n "__fish_stk_using_subcommand help" -s h -l help -d 'Print help'
