
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
            cand config 'Show, check or write the configuration'
            cand completions 'Print shell completions'
            cand man 'Print or write the man pages'
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
