//! The little of WASI 0.2 that guests of usual toolchains need to start: no files, no sockets, no environment, clocks that
//! don't wait, and output that goes to the log. Nothing here blocks or needs the fiber. The rest of WASI traps when it is called.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Lift, Lower, Resource, ResourceType};
use wasmtime::{Caller, Error, ExternType, Module, Result as Outcome, StoreContextMut, bail};

use crate::abi::define::{Define, ModuleImports};
use crate::abi::{Bytes, Handle, List, Named, record, variant};
use crate::call::state::CallState;
use crate::filter::LoadError;
use crate::load::unbundle::{Import, Imported};
use sluice_services::Random;

/// Random bytes of one call.
const MAX_RANDOM: u64 = 64 << 10;
/// What a write may carry, as `check-write` tells the guest.
const MAX_WRITE: u64 = 64 << 10;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// Of no consequence, but some guests take a handle 0 for none.
const OTHER: u32 = 3;

/// Any resource that nothing here ever makes.
struct Unused;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "part of the interface; nothing here fails this way")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Datetime {
    pub(crate) seconds: u64,
    pub(crate) nanoseconds: u32,
}

variant!(StreamError {
    0 LastOperationFailed(error: Resource<IoError>) "last-operation-failed",
    1 Closed "closed",
});
record!(Datetime { seconds: u64 = "seconds", nanoseconds: u32 = "nanoseconds" });

type Streamed<T> = Outcome<Result<T, StreamError>>;

/// Defines what a component imports of WASI, under the version it names.
pub(crate) fn link(
    linker: &mut wasmtime::component::Linker<CallState>,
    component: &Component,
) -> Result<(), LoadError> {
    let engine = component.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let Some(interface) = interface_of(name) else { continue };
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        let failed = |e: Error| LoadError::Link(format!("{name}: {e:#}"));
        let mut at = linker.instance(name).map_err(failed)?;
        for (item, export) in instance.exports(&engine) {
            match export.ty {
                ComponentItem::Resource(_) => {
                    let dropped = |mut cx: StoreContextMut<'_, CallState>, _| {
                        dropped(cx.data_mut());
                        Ok(())
                    };
                    at.resource(item, resource(item), dropped).map_err(failed)?;
                }
                ComponentItem::ComponentFunc(_) if define(&mut at, interface, item).map_err(failed)? => {}
                ComponentItem::ComponentFunc(_) => {
                    let what = missing(name, item);
                    at.func_new(item, move |_, _, _, _| bail!("{what}")).map_err(failed)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Defines what a core module imports of WASI.
pub(crate) fn link_direct(imports: &mut ModuleImports, module: &Module) -> Outcome<()> {
    let is_ours = |import: &Import| interface_of(import.interface()).is_some();
    let ours: Vec<_> = imports.left.extract_if(.., |import| is_ours(import)).collect();
    for import in ours {
        match &import.what {
            Imported::Drop { .. } => {
                imports.linker.func_wrap(
                    &import.module,
                    &import.name,
                    |mut caller: Caller<'_, CallState>, _: u32| {
                        dropped(caller.data_mut());
                    },
                )?;
            }
            Imported::Function { interface, name, .. } => {
                let (of, short) = (interface.clone(), interface_of(interface).unwrap_or_default().to_owned());
                let name = name.clone();
                imports.left.push(import);
                let package = of.split('@').next().unwrap_or_default().to_owned();
                if !define(&mut imports.of(package), &short, &name)?
                    && let Some(import) = imports.left.pop()
                {
                    let ty = module.imports().find(|of| of.module() == import.module && of.name() == import.name);
                    let Some(ExternType::Func(ty)) = ty.map(|import| import.ty()) else {
                        bail!("an import is missing")
                    };
                    let what = missing(&of, &name);
                    imports.linker.func_new(&import.module, &import.name, ty, move |_, _, _| bail!("{what}"))?;
                }
            }
        }
    }
    Ok(())
}

fn missing(interface: &str, function: &str) -> String {
    format!("`{interface}` `{function}` was called, which this gateway does not have")
}

/// `io/streams` of `wasi:io/streams@0.2.3`; `None` for what isn't WASI 0.2.
pub(crate) fn interface_of(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    version.starts_with("0.2.").then_some(interface)
}

macro_rules! resources {
    ($($type:ident $name:literal,)*) => {
        $(
            pub(crate) struct $type;

            impl Named for $type {
                const NAME: &'static str = $name;
            }
        )*
    };
}

resources! {
    IoError "error",
    Pollable "pollable",
    InputStream "input-stream",
    OutputStream "output-stream",
    TerminalInput "terminal-input",
    TerminalOutput "terminal-output",
    Descriptor "descriptor",
}

/// By name alone: an interface that uses a resource of another one has it among its exports too, and it has to be the same type.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" | "io-error" => ResourceType::host::<IoError>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        _ => ResourceType::host::<Unused>(),
    }
}

/// Defines one function. `false` when there is none of this name here.
fn define(at: &mut impl Define, interface: &str, name: &str) -> Outcome<bool> {
    match (interface, name) {
        ("cli/environment", "get-environment") => {
            at.function::<(), _>(name, |_, ()| Ok(Vec::<(String, String)>::new()))?;
        }
        ("cli/environment", "get-arguments") => at.function::<(), _>(name, |_, ()| Ok(Vec::<String>::new()))?,
        ("cli/environment", "initial-cwd") => at.function::<(), _>(name, |_, ()| Ok(None::<String>))?,
        ("cli/exit", "exit") => at.procedure::<(Result<(), ()>,)>(name, |_, (_,)| bail!("the guest exited"))?,
        ("cli/stdin", "get-stdin") => at.function::<(), _>(name, |state, ()| Ok(own::<InputStream>(state, OTHER)))?,
        ("cli/stdout", "get-stdout") => {
            at.function::<(), _>(name, |state, ()| Ok(own::<OutputStream>(state, STDOUT)))?;
        }
        ("cli/stderr", "get-stderr") => {
            at.function::<(), _>(name, |state, ()| Ok(own::<OutputStream>(state, STDERR)))?;
        }
        ("cli/terminal-stdin", "get-terminal-stdin") => {
            at.function::<(), _>(name, |_, ()| Ok(None::<Resource<TerminalInput>>))?;
        }
        ("cli/terminal-stdout", "get-terminal-stdout") | ("cli/terminal-stderr", "get-terminal-stderr") => {
            at.function::<(), _>(name, |_, ()| Ok(None::<Resource<TerminalOutput>>))?;
        }
        ("filesystem/preopens", "get-directories") => {
            at.function::<(), _>(name, |_, ()| Ok(Vec::<(Resource<Descriptor>, String)>::new()))?;
        }
        ("io/error", "[method]error.to-debug-string") => {
            at.function::<(Handle<IoError>,), _>(name, |_, (_,)| Ok(String::from("closed")))?;
        }
        ("io/poll", "[method]pollable.ready") => at.function::<(Handle<Pollable>,), _>(name, |_, (_,)| Ok(true))?,
        ("io/poll", "[method]pollable.block") => at.procedure::<(Handle<Pollable>,)>(name, |_, (_,)| Ok(()))?,
        ("io/poll", "poll") => {
            // Everything is ready at once: a guest that sleeps goes on, and one that waits for input finds it closed.
            at.function::<(List<Handle<Pollable>>,), _>(name, |_, (all,)| {
                Ok((0..all.len() as u32).collect::<Vec<_>>())
            })?;
        }
        ("io/streams", _) => return streams(at, name),
        ("clocks/monotonic-clock", "now") => at.function::<(), _>(name, |state, ()| Ok(state.monotonic_ns()))?,
        ("clocks/monotonic-clock", "resolution") => at.function::<(), _>(name, |_, ()| Ok(1_u64))?,
        ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            at.function::<(u64,), _>(name, |state, (_,)| Ok(own::<Pollable>(state, OTHER)))?;
        }
        ("clocks/wall-clock", "now") => at.function::<(), _>(name, |state, ()| {
            let now = state.since_epoch();
            Ok(Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
        })?,
        ("clocks/wall-clock", "resolution") => {
            at.function::<(), _>(name, |_, ()| Ok(Datetime { seconds: 0, nanoseconds: 1 }))?;
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            at.function::<(u64,), _>(name, |state, (length,)| {
                state.drew = true;
                random_bytes(state.random(), length)
            })?;
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            at.function::<(), _>(name, |state, ()| {
                state.drew = true;
                random_number(state.random())
            })?;
        }
        ("random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            at.function::<(), _>(name, |state, ()| {
                Ok((random_number(state.random())?, random_number(state.random())?))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn streams(at: &mut impl Define, name: &str) -> Outcome<bool> {
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            at.function::<(Handle<InputStream>, u64), _>(name, |_, _| -> Streamed<Vec<u8>> {
                Ok(Err(StreamError::Closed))
            })?;
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            at.function::<(Handle<InputStream>, u64), _>(name, |_, _| -> Streamed<u64> {
                Ok(Err(StreamError::Closed))
            })?;
        }
        "[method]input-stream.subscribe" => {
            at.function::<(Handle<InputStream>,), _>(name, |state, (_,)| Ok(own::<Pollable>(state, OTHER)))?;
        }
        "[method]output-stream.subscribe" => {
            at.function::<(Handle<OutputStream>,), _>(name, |state, (_,)| Ok(own::<Pollable>(state, OTHER)))?;
        }
        "[method]output-stream.check-write" => {
            at.function::<(Handle<OutputStream>,), _>(name, |_, (_,)| -> Streamed<u64> { Ok(Ok(MAX_WRITE)) })?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            at.function::<(Handle<OutputStream>, Bytes), _>(name, |state, (to, bytes)| -> Streamed<()> {
                state.write_output(to == STDERR, bytes);
                Ok(Ok(()))
            })?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            at.function::<(Handle<OutputStream>,), _>(name, |_, (_,)| -> Streamed<()> { Ok(Ok(())) })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Hands a resource to the guest.
fn own<T: 'static>(state: &mut CallState, number: u32) -> Resource<T> {
    state.handles += 1;
    Resource::new_own(number)
}

/// The guest has dropped a resource.
fn dropped(state: &mut CallState) {
    state.handles = state.handles.saturating_sub(1);
}

fn random_bytes(random: &Random, length: u64) -> Outcome<Vec<u8>> {
    if length > MAX_RANDOM {
        bail!("asked for {length} random bytes at once, more than {MAX_RANDOM}");
    }
    if let Random::Seeded(_) = random {
        return random.bytes(length as u32).map_err(|e| Error::msg(format!("no randomness: {e}")));
    }
    let mut bytes = vec![0; length as usize];
    getrandom::fill(&mut bytes).map_err(|e| Error::msg(format!("no randomness: {e}")))?;
    Ok(bytes)
}

fn random_number(random: &Random) -> Outcome<u64> {
    if let Random::Seeded(_) = random {
        return random.number().map_err(|e| Error::msg(format!("no randomness: {e}")));
    }
    getrandom::u64().map_err(|e| Error::msg(format!("no randomness: {e}")))
}
