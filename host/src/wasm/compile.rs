//! Compiles components: in a process of its own, which takes the compiler's memory with it when it ends (some hundred times the
//! size of the component), and whose death is an error of the plugin. In this process where none can be started.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine::{RuntimeOptions, config};
use super::{LoadError, RuntimeError};

/// The command line of a program that calls [`compile_piped`].
pub type CompilerCommand = [&'static str; 2];

/// Compiles what `from` has, for a [`super::Runtime`] of this same program, into `to`. An error is for the one who started it.
pub fn compile_piped(mut from: impl Read, mut to: impl Write) -> Result<(), String> {
    let engine = Engine::new(&config(&RuntimeOptions::default()))
        .map_err(|error| RuntimeError::Engine(format!("{error:#}")).to_string())?;
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(|error| format!("the component can't be read: {error}"))?;
    let compiled = engine.precompile_component(&bytes).map_err(|error| format!("{error:#}"))?;
    to.write_all(&compiled).and_then(|()| to.flush()).map_err(|error| format!("it can't be handed over: {error}"))
}

/// Compiles a component.
pub(super) fn compile(engine: &Engine, with: Option<CompilerCommand>, bytes: &[u8]) -> Result<Component, LoadError> {
    if let Some(command) = with
        && let Some(done) = compile_apart(engine, command, bytes)
    {
        return done;
    }
    Component::from_binary(engine, bytes).map_err(|error| LoadError::Compile(format!("{error:#}")))
}

/// `None` where no process can be started, or what it made does not fit.
fn compile_apart(
    engine: &Engine,
    [program, argument]: CompilerCommand,
    bytes: &[u8],
) -> Option<Result<Component, LoadError>> {
    let unusable = |error: &dyn std::fmt::Display| tracing::debug!(%error, "compiling in this process");
    let (input, output, errors) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
    let started = Command::new(program).arg(argument).stdin(input).stdout(output).stderr(errors).spawn();
    let mut child = started.inspect_err(|error| unusable(error)).ok()?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it did not read it does not need: its status says why.
        let _ = stdin.write_all(bytes);
    }
    let output = child.wait_with_output().inspect_err(|error| unusable(error)).ok()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = match output.status.code() {
            Some(_) => said.trim().to_owned(),
            None => format!("the compiler did not survive it ({})", output.status),
        };
        return Some(Err(LoadError::Compile(why)));
    }
    #[allow(
        unsafe_code,
        reason = "deserialize trusts its bytes: our own program made them of the component, over a pipe"
    )]
    let component = unsafe { Component::deserialize(engine, &output.stdout) };
    component.inspect_err(|error| unusable(error)).ok().map(Ok)
}
