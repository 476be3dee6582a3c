//! The `sluice` binary: arguments and exit codes, and the only file that prints.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sluice::filter::Runtime;
use sluice::plugin::check::{Finding, Severity};
use sluice::plugin::{self, Selection, ToolError};
use sluice::services::consumers::{key_hash, new_key};
use sluice::services::log_limit::{visible, visible_lines};
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
        /// The configuration [default: gateway.toml]
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The same, without an option.
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
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
    /// Look at plugins, and try them.
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
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a project to start from.
    New {
        /// The name of the plugin, and of its folder.
        name: String,
        /// Its language: rust, c, zig, go, javascript, typescript or python.
        #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
        lang: String,
        /// The folder `sdk` of a checkout of Sluice, to be linked in place of a copy.
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Put the SDK of this version in the place of the copy that a project has.
    Sdk {
        #[arg(value_name = "DIR", default_value = ".")]
        folder: PathBuf,
    },
    /// Build the plugin in a folder with the tools of its language, and check what comes out.
    Build {
        #[arg(value_name = "DIR", default_value = ".")]
        folder: PathBuf,
    },
    /// Say what of components would be a surprise: hooks, config schema; with a configuration also imports, grants, limits and config.
    Check {
        /// Components, folders of plugins, or names of shipped plugins.
        #[arg(value_name = "FILE|DIR|NAME", required = true)]
        files: Vec<PathBuf>,
        /// The configuration that uses them.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print a page about a plugin, in Markdown: hooks, imports, config; of a folder with cases also metrics and promises.
    Docs {
        /// A component, the folder of a plugin, or the name of a shipped plugin.
        #[arg(value_name = "FILE|DIR|NAME")]
        what: PathBuf,
    },
    /// Measure what the hooks of a plugin cost for the request of a case.
    Bench {
        /// A folder of a plugin, or a file of cases.
        #[arg(value_name = "DIR|FILE", default_value = ".")]
        path: PathBuf,
        /// The component to measure, or the name of a shipped plugin, instead of what is found in the folder of the plugin.
        #[arg(long, value_name = "FILE|NAME")]
        component: Option<PathBuf>,
        /// The case: the first one that has this text in its name.
        #[arg(long, value_name = "NAME")]
        case: Option<String>,
        /// How many requests.
        #[arg(long, value_name = "NUMBER", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        requests: u32,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the cases of a plugin: its component, with the code that serves requests and without a gateway.
    Test(TestArguments),
}

#[derive(Args)]
struct TestArguments {
    /// Folders of plugins, with files `cases/*.toml`, and files of cases.
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    paths: Vec<PathBuf>,
    /// The component to try, or the name of a shipped plugin, instead of what is found in the folder of the plugin.
    #[arg(long, value_name = "FILE|NAME")]
    component: Option<PathBuf>,
    /// Run only cases that have this text in their name.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Write what was seen into the files, in the place of what was expected.
    #[arg(long)]
    update: bool,
    /// Run again whenever a file of cases or the component changes.
    #[arg(long, conflicts_with_all = ["update", "json"])]
    watch: bool,
    /// Write the results to this file, in the form of JUnit.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON, with all that was seen.
    #[arg(long)]
    json: bool,
}

/// The command could not do what it was asked for.
const UNABLE_TO_RUN: u8 = 2;
/// How often `--watch` looks.
const WATCH: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = match command.unwrap_or(Command::Run { config: None, file: None }) {
        Command::Run { config, file } => {
            let config = config.or(file).unwrap_or_else(|| "gateway.toml".into());
            gateway::run(&config, COMPILER).map(ExitCode::from).map_err(|error| sluice::chain(&error))
        }
        Command::Check { config, explain_key: None } => check(&config),
        Command::Check { config, explain_key: Some(key) } => explain(&config, &key),
        Command::Plugin { command: PluginCommand::Test(arguments) } => return test(&arguments),
        Command::Plugin { command } => plugin_command(command),
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
    let mut text: String =
        checked.warnings.iter().map(|warning| format!("warning: {}\n", visible_lines(warning, "    "))).collect();
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

fn plugin_command(command: PluginCommand) -> Result<ExitCode, String> {
    let cache = gateway::default_cache;
    let told = |error: ToolError| sluice::chain(&error);
    match command {
        PluginCommand::Inspect { file, json } => inspect(&file, json),
        PluginCommand::New { name, lang, sdk } => {
            let made = plugin::new::new(Path::new("."), &name, &lang, sdk.as_deref()).map_err(told)?;
            print(&made.iter().map(|path| format!("{}\n", path.display())).collect::<String>())
        }
        PluginCommand::Build { folder } => {
            let built = plugin::build::build(&folder, cache()).map_err(told)?;
            print(&format!("{}: {} bytes, hooks: {}\n", built.path.display(), built.size, built.hooks.join(", ")))
        }
        PluginCommand::Sdk { folder } => {
            let copy = plugin::new::refresh(&folder).map_err(told)?;
            print(&format!("{}\n", copy.display()))
        }
        PluginCommand::Check { files, config } => check_plugins(&files, config.as_deref()),
        PluginCommand::Docs { what } => document(&what),
        PluginCommand::Bench { path, component, case, requests, json } => {
            let selection = Selection { paths: vec![path], component, filter: case };
            let measured = plugin::bench::bench(&selection, requests as usize, cache()).map_err(told)?;
            print(&if json {
                format!("{:#}\n", plugin::bench::to_json(&measured))
            } else {
                plugin::bench::text(&measured)
            })
        }
        PluginCommand::Test(arguments) => Ok(test(&arguments)),
    }
}

fn check_plugins(files: &[PathBuf], config: Option<&Path>) -> Result<ExitCode, String> {
    let mut worst = Severity::Note;
    let mut text = String::new();
    for file in files {
        let component = plugin::find(file).map_err(|error| sluice::chain(&error))?;
        let found = plugin::check::check(&component, config, gateway::default_cache());
        for Finding { severity, message } in found.map_err(|error| sluice::chain(&error))? {
            let word = match severity {
                Severity::Note => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            if severity == Severity::Error {
                worst = severity;
            }
            text.push_str(&format!("{word}: {}: {message}\n", file.display()));
        }
    }
    print(&text)?;
    Ok(if worst == Severity::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A page about a plugin. Cases are run where there are some, since only they show its metrics.
fn document(what: &Path) -> Result<ExitCode, String> {
    let told = |error: ToolError| sluice::chain(&error);
    let component = plugin::find(what).map_err(told)?;
    let cases = if what.join("cases").is_dir() {
        let selection = Selection { paths: vec![what.to_owned()], ..Selection::default() };
        Some(plugin::test(&selection, gateway::default_cache()).map_err(told)?)
    } else {
        None
    };
    let options = RuntimeOptions { compiler: COMPILER, cache: gateway::default_cache(), ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).map_err(|error| sluice::chain(&error))?;
    let loaded = runtime.load(&component.bytes);
    let loaded = loaded.map_err(|error| format!("{}: {}", component.origin, visible(&error.to_string())))?;
    let name = what.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    print(&plugin::docs::page(&loaded, &name, cases.as_ref()))
}

/// Exits with 0 when all cases pass, with 1 when some fail and with 2 when they can't be run.
fn test(arguments: &TestArguments) -> ExitCode {
    let selection = Selection {
        paths: arguments.paths.clone(),
        component: arguments.component.clone(),
        filter: arguments.filter.clone(),
    };
    let unable = |message: String| {
        complain(message);
        ExitCode::from(UNABLE_TO_RUN)
    };
    loop {
        let before = plugin::changed(&selection);
        let code = test_once(arguments, &selection).unwrap_or_else(unable);
        if !arguments.watch {
            return code;
        }
        while plugin::changed(&selection) == before {
            std::thread::park_timeout(WATCH);
        }
        if let Err(message) = print("\n") {
            return unable(message);
        }
    }
}

fn test_once(arguments: &TestArguments, selection: &Selection) -> Result<ExitCode, String> {
    let summary = plugin::test(selection, gateway::default_cache()).map_err(|error| sluice::chain(&error))?;
    if let Some(path) = &arguments.junit {
        std::fs::write(path, plugin::junit(&summary)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let text = if arguments.json { format!("{:#}\n", plugin::json(&summary)) } else { plugin::text(&summary) };
    print(&text)?;
    if arguments.update {
        let count = plugin::update(&summary).map_err(|error| sluice::chain(&error))?;
        print(&format!("{count} expectations changed\n"))?;
    }
    Ok(if summary.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn inspect(path: &Path, as_json: bool) -> Result<ExitCode, String> {
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
    if as_json {
        return print(&format!("{:#}\n", plugin::described(&plugin, bytes.len())));
    }
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
