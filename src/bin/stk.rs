//! The program: hands over to the command line. No logic.

fn main() -> std::process::ExitCode {
    stk::cli::main()
}
