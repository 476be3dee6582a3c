//! Compiles components: in a process of its own, which takes the compiler's memory with it when it ends (some hundred times the
//! size of the component), and whose death is an error of the plugin. In this process where none can be started.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::LoadError;
use super::engine::{RuntimeOptions, config};

/// The command line of a program that calls [`compile_piped`].
pub type CompilerCommand = [&'static str; 2];

/// The exit status of a compiling process whose failure has nothing to do with the component.
pub const UNABLE: u8 = 3;

/// Why [`compile_piped`] has compiled nothing.
#[derive(Debug, thiserror::Error)]
pub enum PipedError {
    /// To be told by the exit status [`UNABLE`].
    #[error("cannot compile: {0}")]
    Unable(String),
    #[error("{0}")]
    Refused(String),
}

/// Compiles what `from` has, for a [`super::Runtime`] of this same program, into `to`.
pub fn compile_piped(mut from: impl Read, mut to: impl Write) -> Result<(), PipedError> {
    // Nothing runs here, so that it needs less room than the gateway.
    let options = RuntimeOptions { instances: 1, ..RuntimeOptions::default() };
    let engine = Engine::new(&config(&options)).map_err(|error| PipedError::Unable(format!("{error:#}")))?;
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(|error| PipedError::Unable(error.to_string()))?;
    let compiled = engine.precompile_component(&bytes).map_err(|error| PipedError::Refused(format!("{error:#}")))?;
    to.write_all(&compiled).and_then(|()| to.flush()).map_err(|error| PipedError::Unable(error.to_string()))
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
    let unusable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "no process can compile a plugin: this one does, and keeps the memory that it takes");
    };
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
        if output.status.code() == Some(UNABLE.into()) {
            unusable(&said.trim());
            return None;
        }
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
