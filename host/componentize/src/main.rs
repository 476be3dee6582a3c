//! `sluice-componentize CORE.wasm COMPONENT.wasm`: the library as a command, for Makefiles.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--version"] {
        #[allow(clippy::print_stdout, reason = "a command tells its user")]
        {
            println!("sluice-componentize {}", env!("CARGO_PKG_VERSION"));
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            #[allow(clippy::print_stderr, reason = "a command tells its user")]
            {
                eprintln!("{message}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [from, to] = arguments else { return Err("usage: sluice-componentize CORE.wasm COMPONENT.wasm".to_owned()) };
    let module = std::fs::read(from).map_err(|error| format!("{from}: {error}"))?;
    let component = sluice_componentize::componentize(&module).map_err(|error| format!("{from}: {error}"))?;
    std::fs::write(to, component).map_err(|error| format!("{to}: {error}"))
}
