//! Compiles components and core modules: in a process of its own (`process`), or in this one where none can be started.

use std::io::{Read, Write};

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result as Outcome};

use crate::filter::LoadError;
use crate::load::cache::Cache;
use crate::load::engine::{Runtime, RuntimeOptions, config};
use crate::load::process::{ProcessError, Subject};

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

/// Compiles what `from` has, for a [`crate::load::Runtime`] of this same program, into `to`. `from` has the length of the input in eight
/// bytes (little-endian), and then the input. It stays open as long as the gateway wants the result: `unwanted` is called when it ends.
pub fn compile_piped(
    mut from: impl Read + Send + 'static,
    mut to: impl Write,
    unwanted: impl FnOnce() + Send + 'static,
) -> Result<(), PipedError> {
    // Nothing runs here, so that it needs less room than the gateway.
    let options = RuntimeOptions { instances: 1, ..RuntimeOptions::default() };
    let engine = Engine::new(&config(&options)).map_err(|error| PipedError::Unable(format!("{error:#}")))?;
    let bytes = input(&mut from).map_err(|error| PipedError::Unable(error.to_string()))?;
    let watch = std::thread::Builder::new().name("parent".into()).spawn(move || {
        if matches!(from.read(&mut [0]), Ok(0) | Err(_)) {
            unwanted();
        }
    });
    watch.map_err(|error| PipedError::Unable(error.to_string()))?;
    let compiled =
        if is_component(&bytes) { engine.precompile_component(&bytes) } else { engine.precompile_module(&bytes) };
    let compiled = compiled.map_err(|error| PipedError::Refused(format!("{error:#}")))?;
    to.write_all(&compiled).and_then(|()| to.flush()).map_err(|error| PipedError::Unable(error.to_string()))
}

fn input(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
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
    subject: Subject<'_>,
    bytes: &[u8],
    hash: &[u8; 32],
    cache: Option<&Cache>,
) -> Result<T, LoadError> {
    if let Some(known) = cache.and_then(|cache| cache.load(&runtime.engine, hash)) {
        return Ok(known);
    }
    let compiled = compile(runtime, subject, bytes, hash)?;
    if let Some(cache) = cache {
        cache.store(&compiled, hash);
    }
    Ok(compiled)
}

fn compile<T: Compiled>(
    runtime: &Runtime,
    subject: Subject<'_>,
    bytes: &[u8],
    hash: &[u8; 32],
) -> Result<T, LoadError> {
    let engine = &runtime.engine;
    let apart = runtime.options.compiler.map(|command| runtime.compiler.run(command, subject, bytes, hash));
    let unusable = match apart {
        None => None,
        Some(Ok(compiled)) => {
            #[allow(
                unsafe_code,
                reason = "deserialize trusts its bytes: our own program made them of those that it got, over a pipe"
            )]
            // SAFETY: they are what `compile_piped` of this same program serialised.
            match unsafe { T::deserialize(engine, &compiled) } {
                Ok(compiled) => return Ok(compiled),
                Err(error) => Some(format!("{error:#}")),
            }
        }
        Some(Err(ProcessError::Unable(why))) => Some(why),
        Some(Err(ProcessError::Refused(why))) => return Err(LoadError::Compile(why)),
        Some(Err(ProcessError::Memory(limit))) => return Err(LoadError::CompileMemory(limit >> 20)),
        Some(Err(ProcessError::Timeout(limit))) => return Err(LoadError::CompileTime(limit)),
        Some(Err(ProcessError::Interrupted)) => return Err(LoadError::Interrupted),
    };
    if let Some(error) = unusable {
        tracing::warn!(error, "no process can compile a plugin: this one does, and keeps the memory that it takes");
    }
    T::compile(engine, bytes).map_err(|error| LoadError::Compile(format!("{error:#}")))
}
