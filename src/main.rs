//! The `idiolect` binary.

fn main() -> std::process::ExitCode {
    idiolect::cli::main()
}
