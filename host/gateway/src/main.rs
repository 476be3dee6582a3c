//! The `sluice` binary: arguments and exit codes, and the only file that prints.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::filter::Runtime;
use sluice::services::consumers::{key_hash, new_key};
use sluice::services::log_limit::visible;
use sluice::services::passwords;
use sluice::wasm::{CompilerCommand, PipedError, RuntimeOptions, UNABLE, compile_piped};
use sluice::{config, embedded, gateway};

#[global_allocator]
static ALLOCATOR: sluice::allocator::Allocator = sluice::allocator::Allocator;

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
    /// Check a configuration without serving it: prints all errors and warnings.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE", default_value = "gateway.toml")]
        config: PathBuf,
        /// Say which value a key has, and where it is written: routes.api.timeouts.request, or routes.api for all of its keys.
        #[arg(long, value_name = "KEY")]
        explain_key: Option<String>,
    },
    /// Look at plugins.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Hash a secret of a consumer, for [consumers] and files of consumers. It is read from standard input, one line.
    Hash {
        #[command(subcommand)]
        what: HashCommand,
    },
    /// Compile a component from standard input to standard output, for the gateway itself.
    #[command(hide = true)]
    Compile,
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
enum HashCommand {
    /// The hash of an API key (SHA-256): for keys that a program has drawn, not for what people choose.
    Key {
        /// Draw a new key, and print it before its hash.
        #[arg(long)]
        new: bool,
    },
    /// The hash of a password (Argon2id with 19 MiB and two passes).
    Password,
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Show what a component exports and says about itself.
    Inspect {
        /// The component, or the name of a shipped plugin.
        #[arg(value_name = "FILE|NAME")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = match command.unwrap_or(Command::Run { config: "gateway.toml".into() }) {
        Command::Run { config } => {
            gateway::run(&config, COMPILER).map(ExitCode::from).map_err(|error| sluice::chain(&error))
        }
        Command::Check { config, explain_key: None } => check(&config),
        Command::Check { config, explain_key: Some(key) } => explain(&config, &key),
        Command::Plugin { command: PluginCommand::Inspect { file } } => inspect(&file),
        Command::Hash { what } => hash(&what),
        Command::Compile => return compile(),
        Command::Version => print(&format!("sluice {}\n", env!("CARGO_PKG_VERSION"))),
    };
    result.unwrap_or_else(|message| {
        complain(&message);
        ExitCode::FAILURE
    })
}

/// Writes a command's answer. A reader that has gone has read enough.
fn print(text: &str) -> Result<ExitCode, String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Says why a command failed, if somebody listens: the exit code tells it, too.
fn complain(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

fn compile() -> ExitCode {
    // The gateway has ended, or does not wait any more.
    let unwanted = || std::process::exit(UNABLE.into());
    match compile_piped(std::io::stdin(), std::io::stdout().lock(), unwanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            if matches!(error, PipedError::Unable(_)) { ExitCode::from(UNABLE) } else { ExitCode::FAILURE }
        }
    }
}

fn check(path: &Path) -> Result<ExitCode, String> {
    let checked = gateway::check(path, COMPILER).map_err(|error| sluice::chain(&error))?;
    // A warning may quote a plugin.
    let mut text: String = checked.warnings.iter().map(|warning| format!("warning: {}\n", visible(warning))).collect();
    text.extend(checked.notes.iter().map(|note| format!("note: {note}\n")));
    text.push_str(&format!("{}: ok\n", path.display()));
    print(&text)
}

fn explain(path: &Path, key: &str) -> Result<ExitCode, String> {
    let explained = config::explain(path, key).map_err(|error| error.to_string())?;
    print(&explained.iter().map(|one| format!("{one}\n")).collect::<String>())
}

/// Shorter keys can be guessed by who has their hashes.
const SHORTEST_KEY: usize = 20;

fn hash(what: &HashCommand) -> Result<ExitCode, String> {
    match what {
        HashCommand::Key { new: true } => {
            let key = new_key();
            print(&format!("{key}\n{}\n", key_hash(key.as_bytes())))
        }
        HashCommand::Key { new: false } => {
            let key = secret()?;
            if key.len() < SHORTEST_KEY {
                complain(format!(
                    "warning: a key of {} bytes can be guessed by who has its hash; `sluice hash key --new` draws a better one",
                    key.len()
                ));
            }
            print(&format!("{}\n", key_hash(key.as_bytes())))
        }
        HashCommand::Password => print(&format!("{}\n", passwords::hash(secret()?.as_bytes()))),
    }
}

/// A line of standard input.
fn secret() -> Result<String, String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    let secret = line.trim_end_matches(['\r', '\n']);
    match secret {
        "" => Err("standard input is empty, expected a secret in its first line".to_owned()),
        secret => Ok(secret.to_owned()),
    }
}

fn inspect(path: &Path) -> Result<ExitCode, String> {
    let name = path.display();
    // A shipped plugin has no file.
    let shipped = path.to_str().filter(|_| !path.is_file()).and_then(embedded::find);
    let bytes = match shipped {
        Some(bytes) => bytes.to_vec(),
        None => config::read_file(path, config::MAX_COMPONENT).map_err(|error| format!("{name}: {error}"))?,
    };
    let options = RuntimeOptions { compiler: COMPILER, cache: gateway::default_cache(), ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).map_err(|error| sluice::chain(&error))?;
    let plugin = runtime.load(&bytes).map_err(|error| format!("{name}: {}", visible(&error.to_string())))?;
    let about = plugin.description();
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let hooks: Vec<_> = plugin.hooks().iter().map(|hook| hook.name()).collect();
    let mut rows = vec![
        ("name", or_none(&about.name)),
        ("version", or_none(&about.version)),
        ("description", or_none(&about.description)),
        ("sha256", plugin.sha256()),
        ("size", format!("{} bytes", bytes.len())),
        ("interface", format!("sluice:filter@{}", plugin.interface_version())),
        ("hooks", hooks.join(", ")),
        ("waits", if plugin.waits() { "yes: it imports an interface whose calls wait" } else { "no" }.to_owned()),
        ("called", plugin.not_direct().map_or("directly".into(), |why| format!("as a component: {why}"))),
    ];
    rows.extend(about.authenticates.then(|| ("access", "decides who may call".to_owned())));
    for (title, part) in [("grants", &about.grants), ("config", &about.config)] {
        let json = part.as_ref().map(|json| match json {
            serde_json::Value::String(text) => format!("not JSON: {text}"),
            json => serde_json::to_string_pretty(json).unwrap_or_default(),
        });
        rows.push((title, or_none(&json)));
    }
    rows.extend(about.docs.as_ref().map(|docs| ("docs", docs.trim_end().to_owned())));
    print(&rows.iter().map(|(title, value)| row(title, value)).collect::<String>())
}

/// A row of `inspect`. The value is the plugin's own text: a line of it must not look like a row.
fn row(title: &str, value: &str) -> String {
    let lines: Vec<_> = value.split('\n').map(visible).collect();
    format!("{title:<12} {}\n", lines.join(&format!("\n{:<12} ", "")))
}
