//! The `sluice` binary: arguments and exit codes, and the only file that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what the commands are for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::filter::Runtime;
use sluice::gateway;
use sluice::wasm::{CompilerCommand, PipedError, RuntimeOptions, UNABLE, compile_piped};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// This program, whatever file it was started from, with the command that compiles.
const COMPILER: Option<CompilerCommand> = Some(["/proc/self/exe", "compile"]);

/// An API gateway whose policies are WebAssembly components.
#[derive(Parser)]
#[command(name = "sluice", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration (what happens without a command, too).
    Run {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = "gateway.toml")]
        config: PathBuf,
    },
    /// Say whether a configuration would be served, with all errors, and what to think of.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE", default_value = "gateway.toml")]
        config: PathBuf,
    },
    /// Look at plugins.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Compile a component from standard input to standard output, for the gateway itself.
    #[command(hide = true)]
    Compile,
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Show what a component exports and says about itself.
    Inspect {
        /// The component.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = match command.unwrap_or(Command::Run { config: "gateway.toml".into() }) {
        Command::Run { config } => {
            gateway::run(&config, COMPILER).map(ExitCode::from).map_err(|error| sluice::chain(&error))
        }
        Command::Check { config } => check(&config),
        Command::Plugin { command: PluginCommand::Inspect { file } } => inspect(&file),
        Command::Compile => return compile(),
        Command::Version => {
            println!("sluice {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|message| {
        eprintln!("{message}");
        ExitCode::FAILURE
    })
}

fn compile() -> ExitCode {
    match compile_piped(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            if matches!(error, PipedError::Unable(_)) { ExitCode::from(UNABLE) } else { ExitCode::FAILURE }
        }
    }
}

fn check(path: &Path) -> Result<ExitCode, String> {
    let warnings = gateway::check(path, COMPILER).map_err(|error| sluice::chain(&error))?;
    for warning in &warnings {
        println!("warning: {warning}");
    }
    println!("{}: ok", path.display());
    Ok(ExitCode::SUCCESS)
}

fn inspect(path: &Path) -> Result<ExitCode, String> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
    let runtime = Runtime::new(RuntimeOptions { compiler: COMPILER, ..RuntimeOptions::default() })
        .map_err(|error| sluice::chain(&error))?;
    let plugin = runtime.load(&bytes).map_err(|error| format!("{name}: {error}"))?;
    let about = plugin.description();
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let hooks: Vec<_> = plugin.hooks().iter().map(|hook| hook.name()).collect();
    println!("name         {}", or_none(&about.name));
    println!("version      {}", or_none(&about.version));
    println!("description  {}", or_none(&about.description));
    println!("sha256       {}", plugin.sha256());
    println!("size         {} bytes", bytes.len());
    println!("hooks        {}", hooks.join(", "));
    println!("waits        {}", if plugin.waits() { "yes: it imports sluice:filter/http" } else { "no" });
    for (title, part) in [("grants", &about.grants), ("config", &about.config)] {
        match part {
            Some(json) => println!("{title:<12} {}", serde_json::to_string_pretty(json).unwrap_or_default()),
            None => println!("{title:<12} -"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
