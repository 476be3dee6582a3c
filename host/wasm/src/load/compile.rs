//! Compiles components and core modules: in a process of its own, which takes the compiler's memory with it when it ends (some hundred times the
//! size of the component), and whose death is an error of the plugin. In this process where none can be started.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result as Outcome};

use crate::filter::LoadError;
use crate::load::cache::Cache;
use crate::load::engine::{Runtime, RuntimeOptions, config};

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

/// Compiles what `from` has, for a [`crate::load::Runtime`] of this same program, into `to`.
pub fn compile_piped(mut from: impl Read, mut to: impl Write) -> Result<(), PipedError> {
    // Nothing runs here, so that it needs less room than the gateway.
    let options = RuntimeOptions { instances: 1, ..RuntimeOptions::default() };
    let engine = Engine::new(&config(&options)).map_err(|error| PipedError::Unable(format!("{error:#}")))?;
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(|error| PipedError::Unable(error.to_string()))?;
    let compiled =
        if is_component(&bytes) { engine.precompile_component(&bytes) } else { engine.precompile_module(&bytes) };
    let compiled = compiled.map_err(|error| PipedError::Refused(format!("{error:#}")))?;
    to.write_all(&compiled).and_then(|()| to.flush()).map_err(|error| PipedError::Unable(error.to_string()))
}

/// Whether bytes of WebAssembly are a component (layer 1) and not a core module (layer 0).
pub(crate) fn is_component(bytes: &[u8]) -> bool {
    matches!(bytes.get(..8), Some([0, b'a', b's', b'm', _, _, 1, 0]))
}

/// What can be compiled.
pub(crate) trait Compiled: Sized {
    fn compile(engine: &Engine, bytes: &[u8]) -> Outcome<Self>;
    fn serialize(&self) -> Outcome<Vec<u8>>;
    /// # Safety
    ///
    /// The bytes have to be those of a `serialize`: they become machine code.
    #[allow(unsafe_code, reason = "it is up to the caller where the bytes come from")]
    unsafe fn deserialize(engine: &Engine, bytes: &[u8]) -> Outcome<Self>;
}

impl Compiled for Component {
    fn compile(engine: &Engine, bytes: &[u8]) -> Outcome<Component> {
        Component::from_binary(engine, bytes)
    }

    fn serialize(&self) -> Outcome<Vec<u8>> {
        Component::serialize(self)
    }

    #[allow(unsafe_code, reason = "see the trait")]
    unsafe fn deserialize(engine: &Engine, bytes: &[u8]) -> Outcome<Component> {
        // SAFETY: that of this function.
        unsafe { Component::deserialize(engine, bytes) }
    }
}

impl Compiled for Module {
    fn compile(engine: &Engine, bytes: &[u8]) -> Outcome<Module> {
        Module::from_binary(engine, bytes)
    }

    fn serialize(&self) -> Outcome<Vec<u8>> {
        Module::serialize(self)
    }

    #[allow(unsafe_code, reason = "see the trait")]
    unsafe fn deserialize(engine: &Engine, bytes: &[u8]) -> Outcome<Module> {
        // SAFETY: that of this function.
        unsafe { Module::deserialize(engine, bytes) }
    }
}

/// Compiles these bytes, of which the hash is given, or finds them in the cache.
pub(crate) fn compiled<T: Compiled>(
    runtime: &Runtime,
    bytes: &[u8],
    hash: &[u8; 32],
    cache: Option<&Cache>,
) -> Result<T, LoadError> {
    if let Some(known) = cache.and_then(|cache| cache.load(&runtime.engine, hash)) {
        return Ok(known);
    }
    let compiled = compile(&runtime.engine, runtime.options.compiler, bytes)?;
    if let Some(cache) = cache {
        cache.store(&compiled, hash);
    }
    Ok(compiled)
}

fn compile<T: Compiled>(engine: &Engine, with: Option<CompilerCommand>, bytes: &[u8]) -> Result<T, LoadError> {
    if let Some(command) = with
        && let Some(done) = compile_apart(engine, command, bytes)
    {
        return done;
    }
    T::compile(engine, bytes).map_err(|error| LoadError::Compile(format!("{error:#}")))
}

/// `None` where no process can be started, or what it made does not fit.
fn compile_apart<T: Compiled>(
    engine: &Engine,
    [program, argument]: CompilerCommand,
    bytes: &[u8],
) -> Option<Result<T, LoadError>> {
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
        reason = "deserialize trusts its bytes: our own program made them of those that it got, over a pipe"
    )]
    // SAFETY: they are what `compile_piped` of this same program serialised.
    let compiled = unsafe { T::deserialize(engine, &output.stdout) };
    compiled.inspect_err(|error| unusable(error)).ok().map(Ok)
}
