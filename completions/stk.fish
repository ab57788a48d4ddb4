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
complete -c stk -n "__fish_stk_needs_command" -f -a "config" -d 'Show, check or write the configuration'
complete -c stk -n "__fish_stk_needs_command" -f -a "completions" -d 'Print shell completions'
complete -c stk -n "__fish_stk_needs_command" -f -a "man" -d 'Print or write the man pages'
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
