
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'stk' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'stk'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'stk' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('demo', 'demo', [CompletionResultType]::ParameterValue, 'See it all at once: a simulated market, the server and the board')
            [CompletionResult]::new('watch', 'watch', [CompletionResultType]::ParameterValue, 'Watch live prices')
            [CompletionResult]::new('serve', 'serve', [CompletionResultType]::ParameterValue, 'Take ticks in, store them, serve them')
            [CompletionResult]::new('history', 'history', [CompletionResultType]::ParameterValue, 'List trades, quotes or bars of the past')
            [CompletionResult]::new('archive', 'archive', [CompletionResultType]::ParameterValue, 'Move old days into the archive, see what is there, and bring it back')
            [CompletionResult]::new('backup', 'backup', [CompletionResultType]::ParameterValue, 'Copy the data directory of this machine while a server uses it, and put the copy back')
            [CompletionResult]::new('audit', 'audit', [CompletionResultType]::ParameterValue, 'Say where the chain from feed to log to warm to archive holds, and where it does not')
            [CompletionResult]::new('replay', 'replay', [CompletionResultType]::ParameterValue, 'Play a capture into a server or a store')
            [CompletionResult]::new('symbols', 'symbols', [CompletionResultType]::ParameterValue, 'List the symbols a server knows')
            [CompletionResult]::new('bench', 'bench', [CompletionResultType]::ParameterValue, 'Measure what the README states, on this machine')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Look for what could be wrong, and say what to do')
            [CompletionResult]::new('config', 'config', [CompletionResultType]::ParameterValue, 'Show, check or write the configuration')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print shell completions')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Print or write the man pages')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print the help of a command')
            break
        }
        'stk;demo' {
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'End by itself after so long: 10s, 2m')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Ticks per second')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--seed', '--seed', [CompletionResultType]::ParameterName, 'The same seed gives the same market')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;watch' {
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Server to talk to: host:port, http://host:port or ws://host:port')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Print lines instead of the board; without a terminal the default is line')
            [CompletionResult]::new('--filter', '--filter', [CompletionResultType]::ParameterName, 'Show only rows that match: a part of the symbol, or a comparison such as ''last<=5'' or ''%>1''')
            [CompletionResult]::new('--sort', '--sort', [CompletionResultType]::ParameterName, 'Column to sort by')
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'End after this long, such as 10s or 5m')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;serve' {
            [CompletionResult]::new('--feed', '--feed', [CompletionResultType]::ParameterName, 'A feed: sim, sim:rate=1000,seed=7,symbols=500, iex:FILE, or kafka:FILE.toml (may be repeated)')
            [CompletionResult]::new('--roles', '--roles', [CompletionResultType]::ParameterName, 'What this process does: feed, processor, gateway, archiver, separated by commas; all of them if not given. Fewer share Kafka, ClickHouse and Redis with other processes')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Directory that holds everything stored')
            [CompletionResult]::new('--listen', '--listen', [CompletionResultType]::ParameterName, 'Address and port for clients')
            [CompletionResult]::new('--ingest-listen', '--ingest-listen', [CompletionResultType]::ParameterName, 'Address and port for programs that bring ticks, on loopback')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--allow-anonymous', '--allow-anonymous', [CompletionResultType]::ParameterName, 'Serve everybody who reaches the address, without keys')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;history' {
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'First day (2025-01-01, in New York) or instant (RFC 3339); without it, the beginning')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Last day, whole, or instant, exclusive; without it, the end')
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'What to list')
            [CompletionResult]::new('--timeframe', '--timeframe', [CompletionResultType]::ParameterName, 'Length of the bars: 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6, 12Month')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'table, csv, json, ndjson, parquet or arrow; otherwise by the ending of --output, else table on a terminal and csv elsewhere')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'At most so many rows')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Write to this file instead of stdout (-)')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Write to this file instead of stdout (-)')
            [CompletionResult]::new('--restore-tier', '--restore-tier', [CompletionResultType]::ParameterName, 'How quickly: expedited, standard or bulk (see `stk archive restore`)')
            [CompletionResult]::new('--restore-days', '--restore-days', [CompletionResultType]::ParameterName, 'How many days the copies can be read')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Read this data directory, which no server may have open, instead of asking a server')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Server to talk to: host:port, http://host:port or ws://host:port')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--stats', '--stats', [CompletionResultType]::ParameterName, 'Say on stderr what the answer cost: bytes and segments read, time to the first row')
            [CompletionResult]::new('--restore', '--restore', [CompletionResultType]::ParameterName, 'Bring back what of the answer is archived, after a word on cost and time, and wait for it')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do not ask before --restore')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;archive' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Copy closed days into the archive, drop from warm what has been there long enough')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show where each day stands')
            [CompletionResult]::new('list', 'list', [CompletionResultType]::ParameterValue, 'List what the archive holds')
            [CompletionResult]::new('verify', 'verify', [CompletionResultType]::ParameterValue, 'Read archived objects again and compare them with their manifests')
            [CompletionResult]::new('restore', 'restore', [CompletionResultType]::ParameterValue, 'Bring archived days back to where they can be read, or into warm')
            [CompletionResult]::new('adopt', 'adopt', [CompletionResultType]::ParameterValue, 'Make this log the archive''s own after it was put back from a backup, or lost')
            [CompletionResult]::new('give-up', 'give-up', [CompletionResultType]::ParameterValue, 'Give up days that warm has dropped and no archive holds any more')
            [CompletionResult]::new('copy', 'copy', [CompletionResultType]::ParameterValue, 'Copy the archive to another place, and verify the copy before archive.url is changed')
            [CompletionResult]::new('lifecycle', 'lifecycle', [CompletionResultType]::ParameterValue, 'Show or set at which age archived days go to Glacier and Deep Archive')
            break
        }
        'stk;archive;run' {
            [CompletionResult]::new('--before', '--before', [CompletionResultType]::ParameterName, 'Copy the days before this one, whatever their age')
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'Copy and drop these kinds alone')
            [CompletionResult]::new('--limit-bandwidth', '--limit-bandwidth', [CompletionResultType]::ParameterName, 'Bytes of data objects a second to and from the archive, at most: 20MB')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Show what would be done, and do nothing')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;status' {
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'These kinds alone')
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'Days from this one on')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Days up to this one')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;archive;list' {
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'These kinds alone')
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'Days from this one on')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Days up to this one')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;archive;verify' {
            [CompletionResult]::new('--bytes', '--bytes', [CompletionResultType]::ParameterName, 'End after so many bytes, with the object in which they are reached: 10GB')
            [CompletionResult]::new('--time', '--time', [CompletionResultType]::ParameterName, 'End after so long, with the object in which it is reached: 30m')
            [CompletionResult]::new('--limit-bandwidth', '--limit-bandwidth', [CompletionResultType]::ParameterName, 'Bytes of data objects a second from the archive, at most: 20MB')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--restart', '--restart', [CompletionResultType]::ParameterName, 'Begin anew')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;restore' {
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'First trading day; without it, the first there is')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Last trading day; without it, the last there is')
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'Kinds of rows, separated by commas: trade, quote, bar, …; without it, all')
            [CompletionResult]::new('--tier', '--tier', [CompletionResultType]::ParameterName, 'How quickly: expedited (minutes, not from Deep Archive), standard (hours), bulk (up to two days)')
            [CompletionResult]::new('--days', '--days', [CompletionResultType]::ParameterName, 'How many days the copies can be read')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait until all can be read, and show how far it is')
            [CompletionResult]::new('--into-warm', '--into-warm', [CompletionResultType]::ParameterName, 'Copy the rows back into warm, and verify that they equal what was archived')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Say what it would take and cost, and do nothing')
            [CompletionResult]::new('-y', '-y', [CompletionResultType]::ParameterName, 'Do not ask')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do not ask')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;adopt' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do it; without this only the plan is shown')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;give-up' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do it; without this only the plan is shown')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;copy' {
            [CompletionResult]::new('--limit-bandwidth', '--limit-bandwidth', [CompletionResultType]::ParameterName, 'Bytes per second from and to each archive, at most: 20MB')
            [CompletionResult]::new('--from-endpoint', '--from-endpoint', [CompletionResultType]::ParameterName, 'Endpoint of the bucket that FROM names, if not `archive.s3_endpoint`')
            [CompletionResult]::new('--to-endpoint', '--to-endpoint', [CompletionResultType]::ParameterName, 'Endpoint of the bucket that TO names, if not `archive.s3_endpoint`')
            [CompletionResult]::new('--from-region', '--from-region', [CompletionResultType]::ParameterName, 'Region of the bucket that FROM names, if not `archive.s3_region`')
            [CompletionResult]::new('--to-region', '--to-region', [CompletionResultType]::ParameterName, 'Region of the bucket that TO names, if not `archive.s3_region`')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--own', '--own', [CompletionResultType]::ParameterName, 'Copy only what belongs to the timeline of this log (--data), from an archive of several timelines')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Show what would be copied, and do nothing')
            [CompletionResult]::new('-y', '-y', [CompletionResultType]::ParameterName, 'Do not ask')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do not ask')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;archive;lifecycle' {
            [CompletionResult]::new('--glacier-after', '--glacier-after', [CompletionResultType]::ParameterName, 'Move data objects to Glacier (minutes to hours to read) at this age')
            [CompletionResult]::new('--deep-archive-after', '--deep-archive-after', [CompletionResultType]::ParameterName, 'Move data objects to Deep Archive (hours to days to read) at this age')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--none', '--none', [CompletionResultType]::ParameterName, 'Keep all data objects where they can be read at once: removes the rule')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Show the plan, and change nothing')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;backup' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to back up, or to restore to')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('create', 'create', [CompletionResultType]::ParameterValue, 'Copy the data directory to an empty directory, while a server uses it or not')
            [CompletionResult]::new('verify', 'verify', [CompletionResultType]::ParameterValue, 'Read a backup whole: checksums of all files, then every record and row')
            [CompletionResult]::new('restore', 'restore', [CompletionResultType]::ParameterValue, 'Verify a backup and put it back to an empty data directory (--data)')
            break
        }
        'stk;backup;create' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to back up, or to restore to')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;backup;verify' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to back up, or to restore to')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;backup;restore' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to back up, or to restore to')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;audit' {
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Data directory to open; refused while a server has it open')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Archive to open: a directory or `s3://bucket/prefix`')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Have the server at this address do it, instead of opening the stores')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--day', '--day', [CompletionResultType]::ParameterName, 'This day alone')
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'Days from this one on')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Days up to this one')
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'These kinds alone')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON, one object a line: partitions, producers, gaps, lost records, units, their rows, findings, the total')
            [CompletionResult]::new('--repair', '--repair', [CompletionResultType]::ParameterName, 'Build damaged or missing files and objects again from another tier; the plan is shown first')
            [CompletionResult]::new('-y', '-y', [CompletionResultType]::ParameterName, 'Do not ask before --repair')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do not ask before --repair')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'stk;replay' {
            [CompletionResult]::new('--speed', '--speed', [CompletionResultType]::ParameterName, '1 keeps the capture''s own timing, 10 is ten times as fast, max does not wait at all')
            [CompletionResult]::new('--from', '--from', [CompletionResultType]::ParameterName, 'Skip what is before: a day (in New York) or an instant (RFC 3339)')
            [CompletionResult]::new('--to', '--to', [CompletionResultType]::ParameterName, 'Stop at: a day, whole, or an instant')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'Play these symbols alone')
            [CompletionResult]::new('--ingest', '--ingest', [CompletionResultType]::ParameterName, 'Where a running server takes ticks')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Write into this data directory, which no server may have open')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--loop', '--loop', [CompletionResultType]::ParameterName, 'Play it again and again, each time as a new session later in time')
            [CompletionResult]::new('--again', '--again', [CompletionResultType]::ParameterName, 'Store the capture a second time, as a new session, though some or all of it is stored already')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;symbols' {
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Server to talk to: host:port, http://host:port or ws://host:port')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('ingest', 'ingest', [CompletionResultType]::ParameterValue, 'Simulated ticks through the log and the processor into hot and warm, end to end')
            [CompletionResult]::new('decode', 'decode', [CompletionResultType]::ParameterValue, 'How quickly an IEX capture is decoded')
            [CompletionResult]::new('fanout', 'fanout', [CompletionResultType]::ParameterValue, 'Quotes to many WebSocket connections, beside a bare loop in the same run')
            [CompletionResult]::new('history', 'history', [CompletionResultType]::ParameterValue, 'One symbol of median activity out of many stored rows')
            [CompletionResult]::new('warm-insert', 'warm-insert', [CompletionResultType]::ParameterValue, 'Blocks into ClickHouse, beside posting ready-made files of the same rows')
            [CompletionResult]::new('archive', 'archive', [CompletionResultType]::ParameterValue, 'Stored days into an archive, proven equal on the way')
            [CompletionResult]::new('readers', 'readers', [CompletionResultType]::ParameterValue, 'What clients that do not read cost those that do')
            [CompletionResult]::new('watch', 'watch', [CompletionResultType]::ParameterValue, 'What the board costs under many updates, in a terminal of its own')
            break
        }
        'stk;bench;ingest' {
            [CompletionResult]::new('--ticks', '--ticks', [CompletionResultType]::ParameterName, 'How many ticks')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Ticks per second of simulated time: how many days they spread over')
            [CompletionResult]::new('--seed', '--seed', [CompletionResultType]::ParameterName, 'The same seed gives the same ticks')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'Keep what is stored in this directory, which must be empty; otherwise it is removed. What goes into servers that the configuration names stays there')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;decode' {
            [CompletionResult]::new('--bytes', '--bytes', [CompletionResultType]::ParameterName, 'Repeat the capture in memory to at least so many bytes')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;fanout' {
            [CompletionResult]::new('--connections', '--connections', [CompletionResultType]::ParameterName, 'WebSocket connections, each subscribed to all quotes')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Messages per second over all connections, or max')
            [CompletionResult]::new('--seconds', '--seconds', [CompletionResultType]::ParameterName, 'How long each side is measured')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--unbound', '--unbound', [CompletionResultType]::ParameterName, 'Leave the threads to the system instead of binding server and receivers to a core each')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;history' {
            [CompletionResult]::new('--ticks', '--ticks', [CompletionResultType]::ParameterName, 'How many ticks')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Ticks per second of simulated time: how many days they spread over')
            [CompletionResult]::new('--seed', '--seed', [CompletionResultType]::ParameterName, 'The same seed gives the same ticks')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'A directory that `stk bench ingest --data` filled with the same ticks, to be asked as it is; otherwise one is filled and its small segments merged, as a server does')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;warm-insert' {
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'ClickHouse''s HTTP address; otherwise the setting `warm.clickhouse_url`')
            [CompletionResult]::new('--ticks', '--ticks', [CompletionResultType]::ParameterName, 'How many ticks')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Ticks per second of simulated time: how many days they spread over')
            [CompletionResult]::new('--seed', '--seed', [CompletionResultType]::ParameterName, 'The same seed gives the same ticks')
            [CompletionResult]::new('--capture', '--capture', [CompletionResultType]::ParameterName, 'The ticks of an IEX capture (TOPS 1.6) instead of simulated ones')
            [CompletionResult]::new('--rounds', '--rounds', [CompletionResultType]::ParameterName, 'How often both ways are measured; the figures are of the median round')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;archive' {
            [CompletionResult]::new('--ticks', '--ticks', [CompletionResultType]::ParameterName, 'How many ticks')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Ticks per second of simulated time: how many days they spread over')
            [CompletionResult]::new('--seed', '--seed', [CompletionResultType]::ParameterName, 'The same seed gives the same ticks')
            [CompletionResult]::new('--data', '--data', [CompletionResultType]::ParameterName, 'A data directory whose closed days are archived, as `stk bench ingest --data` or `stk replay --data` left it (its rows stay); otherwise one is filled, and the memory that took is counted')
            [CompletionResult]::new('--url', '--url', [CompletionResultType]::ParameterName, 'Where the archive is written: an empty directory or `s3://bucket/prefix`; otherwise a directory that is removed')
            [CompletionResult]::new('--symbol', '--symbol', [CompletionResultType]::ParameterName, 'Whose quotes of the first day are read again; otherwise those of the simulated market''s symbol of median activity')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;readers' {
            [CompletionResult]::new('--good', '--good', [CompletionResultType]::ParameterName, 'WebSocket clients that read, each subscribed to all quotes')
            [CompletionResult]::new('--streams', '--streams', [CompletionResultType]::ParameterName, 'WebSocket clients that do not read, each with a subscription of its own')
            [CompletionResult]::new('--history', '--history', [CompletionResultType]::ParameterName, 'Requests for all of history that are not read')
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Quotes per second')
            [CompletionResult]::new('--seconds', '--seconds', [CompletionResultType]::ParameterName, 'How long each phase is measured; `later` figures exclude the first second')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;bench;watch' {
            [CompletionResult]::new('--rate', '--rate', [CompletionResultType]::ParameterName, 'Updates per second')
            [CompletionResult]::new('--symbols', '--symbols', [CompletionResultType]::ParameterName, 'How many symbols trade')
            [CompletionResult]::new('--seconds', '--seconds', [CompletionResultType]::ParameterName, 'How long it is measured, after a warm-up of two seconds')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print one JSON object')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;doctor' {
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'Server to talk to: host:port, http://host:port or ws://host:port')
            [CompletionResult]::new('--key-id', '--key-id', [CompletionResultType]::ParameterName, 'Key to show to the server')
            [CompletionResult]::new('--secret-key', '--secret-key', [CompletionResultType]::ParameterName, 'The key''s secret; better set in the environment than on the command line')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print everything gathered as JSON, for a bug report')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;config' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('show', 'show', [CompletionResultType]::ParameterValue, 'Print every setting, its value, and where that came from')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Check the file and the environment; print nothing when they are good')
            [CompletionResult]::new('init', 'init', [CompletionResultType]::ParameterValue, 'Write a file with every setting at its default')
            break
        }
        'stk;config;show' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print as JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;config;check' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;config;init' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;completions' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;man' {
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Write every page into this directory instead')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'stk;help' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Configuration file')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
