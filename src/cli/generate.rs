//! `stk completions` and `stk man`: made from the one definition of the command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::CliError;

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell to complete for
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// The command whose page to print, such as `serve`; without it the page of `stk`
    command: Option<String>,
    /// Write every page into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub(super) fn completions(args: CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "stk", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| CliError::stdout(&error))
}

pub(super) fn man(args: ManArgs) -> Result<(), CliError> {
    if let Some(dir) = args.output {
        for (name, page) in man_pages() {
            write_file(&dir.join(name), &page)?;
        }
        return Ok(());
    }
    let wanted = args.command.map_or_else(|| "stk.1".to_owned(), |command| format!("stk-{command}.1"));
    let pages = man_pages();
    let Some((_, page)) = pages.iter().find(|(name, _)| *name == wanted) else {
        let known: Vec<_> =
            pages.iter().filter_map(|(name, _)| name.strip_prefix("stk-")?.strip_suffix(".1")).collect();
        return Err(CliError::usage(format!("there is no page `{wanted}`"))
            .hint(format!("pages: {}", known.join(", "))));
    };
    std::io::stdout().write_all(page).map_err(|error| CliError::stdout(&error))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

/// Every generated file that is committed, by its path in the repository: man pages, completions
/// and the sample configuration. A test compares them with what stands there.
pub fn generated_files() -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> =
        man_pages().into_iter().map(|(name, page)| (Path::new("man").join(name), page)).collect();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::command(), "stk", &mut script);
        let name = match shell {
            Shell::Bash => "stk.bash",
            Shell::Zsh => "_stk",
            Shell::Fish => "stk.fish",
            Shell::PowerShell => "_stk.ps1",
            _ => "stk.elv",
        };
        files.push((Path::new("completions").join(name), script));
    }
    files.push((PathBuf::from("stk.example.toml"), crate::config::sample_file().into_bytes()));
    files
}

/// Name and text of every man page.
fn man_pages() -> Vec<(String, Vec<u8>)> {
    let mut root = super::command().name("stk");
    root.build();
    let mut pages = Vec::new();
    page_of(&root, "stk", &mut pages);
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("stk-{}", command.get_name());
        page_of(&command.clone().display_name(&name), &name, &mut pages);
        for nested in command.get_subcommands().filter(|nested| nested.get_name() != "help") {
            let name = format!("{name}-{}", nested.get_name());
            page_of(&nested.clone().display_name(&name), &name, &mut pages);
        }
    }
    pages.push(("stk.toml.5".to_owned(), settings_page()));
    pages
}

fn page_of(command: &clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) {
    let mut page = Vec::new();
    let source = format!("stk {}", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command.clone()).title(name).source(source).manual("stk manual").date("");
    man.render(&mut page).expect("writing to memory does not fail");
    pages.push((format!("{name}.1"), page));
}

/// The reference of the configuration file, in roff.
fn settings_page() -> Vec<u8> {
    let roff = |text: &str| text.replace('\\', "\\\\").replace('-', "\\-").replace('\'', "\\(aq");
    let mut out = format!(
        ".TH stk.toml 5 \"\" \"stk {}\" \"stk manual\"\n.SH NAME\nstk.toml \\- configuration of stk\n\
         .SH DESCRIPTION\nA TOML file, given by \\fB\\-\\-config\\fR or \\fBSTK_CONFIG\\fR. A value comes from, the \
         later winning: the default, this file, the environment, a flag. A setting that does not exist is refused \
         by name. \\fBstk config show\\fR tells every value and where it came from.\n.SH SETTINGS\n",
        env!("CARGO_PKG_VERSION")
    );
    for setting in crate::config::SETTINGS {
        out.push_str(&format!(".TP\n\\fB{}\\fR\n{}", roff(setting.key), roff(setting.doc)));
        out.push_str(&format!(" Environment: {}.\n", roff(&crate::config::env_name(setting.key))));
    }
    out.into_bytes()
}
