//! The little of WASI 0.2 that guests of usual toolchains need to start: no files, no sockets, no environment, clocks that
//! don't wait, and output that goes to the log. Nothing here blocks or needs the fiber. The rest of WASI traps when it is called.

use std::time::{Duration, Instant, SystemTime};

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Lift, LinkerInstance, Lower, Resource, ResourceType};
use wasmtime::{Error, Result, StoreContextMut, bail};

use super::LoadError;
use super::state::CallState;

/// Random bytes of one call.
const MAX_RANDOM: u64 = 64 << 10;
/// What a write may carry, as `check-write` tells the guest.
const MAX_WRITE: u64 = 64 << 10;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

struct IoError;
struct Pollable;
struct InputStream;
struct OutputStream;
struct TerminalInput;
struct TerminalOutput;
struct Descriptor;
/// Any resource that nothing here ever makes.
struct Unused;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "part of the interface; nothing here fails this way")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Streamed<T> = Result<(Result<T, StreamError>,)>;
type Cx<'a> = StoreContextMut<'a, CallState>;

/// Defines what a component imports of WASI, under the version it names.
pub(super) fn link(
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
                ComponentItem::Resource(_) => at.resource(item, resource(item), |cx, _| dropped(cx)).map_err(failed)?,
                ComponentItem::ComponentFunc(_) if define(&mut at, interface, item).map_err(failed)? => {}
                ComponentItem::ComponentFunc(_) => {
                    let what = format!("`{name}` `{item}` was called, which this gateway does not have");
                    at.func_new(item, move |_, _, _, _| bail!("{what}")).map_err(failed)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// `io/streams` of `wasi:io/streams@0.2.3`; `None` for what isn't WASI 0.2.
pub(super) fn interface_of(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    version.starts_with("0.2.").then_some(interface)
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
fn define(at: &mut LinkerInstance<'_, CallState>, interface: &str, name: &str) -> Result<bool> {
    match (interface, name) {
        ("cli/environment", "get-environment") => {
            at.func_wrap(name, |_: Cx, ()| Ok((Vec::<(String, String)>::new(),)))?
        }
        ("cli/environment", "get-arguments") => at.func_wrap(name, |_: Cx, ()| Ok((Vec::<String>::new(),)))?,
        ("cli/environment", "initial-cwd") => at.func_wrap(name, |_: Cx, ()| Ok((None::<String>,)))?,
        ("cli/exit", "exit") => {
            at.func_wrap(name, |_: Cx, (_,): (Result<(), ()>,)| -> Result<()> { bail!("the guest exited") })?
        }
        ("cli/stdin", "get-stdin") => at.func_wrap(name, |cx: Cx, ()| Ok((own::<InputStream>(cx, 0),)))?,
        ("cli/stdout", "get-stdout") => at.func_wrap(name, |cx: Cx, ()| Ok((own::<OutputStream>(cx, STDOUT),)))?,
        ("cli/stderr", "get-stderr") => at.func_wrap(name, |cx: Cx, ()| Ok((own::<OutputStream>(cx, STDERR),)))?,
        ("cli/terminal-stdin", "get-terminal-stdin") => {
            at.func_wrap(name, |_: Cx, ()| Ok((None::<Resource<TerminalInput>>,)))?;
        }
        ("cli/terminal-stdout", "get-terminal-stdout") | ("cli/terminal-stderr", "get-terminal-stderr") => {
            at.func_wrap(name, |_: Cx, ()| Ok((None::<Resource<TerminalOutput>>,)))?;
        }
        ("filesystem/preopens", "get-directories") => {
            at.func_wrap(name, |_: Cx, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))?;
        }
        ("io/error", "[method]error.to-debug-string") => {
            at.func_wrap(name, |_: Cx, (_,): (Resource<IoError>,)| Ok((String::from("closed"),)))?;
        }
        ("io/poll", "[method]pollable.ready") => {
            at.func_wrap(name, |_: Cx, (_,): (Resource<Pollable>,)| Ok((true,)))?
        }
        ("io/poll", "[method]pollable.block") => at.func_wrap(name, |_: Cx, (_,): (Resource<Pollable>,)| Ok(()))?,
        ("io/poll", "poll") => {
            // Everything is ready at once: a guest that sleeps goes on, and one that waits for input finds it closed.
            at.func_wrap(name, |_: Cx, (all,): (Vec<Resource<Pollable>>,)| {
                Ok(((0..all.len() as u32).collect::<Vec<_>>(),))
            })?;
        }
        ("io/streams", _) => return streams(at, name),
        ("clocks/monotonic-clock", "now") => at.func_wrap(name, |_: Cx, ()| Ok((monotonic_ns(),)))?,
        ("clocks/monotonic-clock", "resolution") => at.func_wrap(name, |_: Cx, ()| Ok((1_u64,)))?,
        ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            at.func_wrap(name, |cx: Cx, (_,): (u64,)| Ok((own::<Pollable>(cx, 0),)))?;
        }
        ("clocks/wall-clock", "now") => at.func_wrap(name, |_: Cx, ()| {
            let now = since_epoch();
            Ok((Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() },))
        })?,
        ("clocks/wall-clock", "resolution") => {
            at.func_wrap(name, |_: Cx, ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))?;
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            at.func_wrap(name, |mut cx: Cx, (length,): (u64,)| {
                cx.data_mut().drew = true;
                Ok((random_bytes(length)?,))
            })?;
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            at.func_wrap(name, |mut cx: Cx, ()| {
                cx.data_mut().drew = true;
                Ok((random_number()?,))
            })?;
        }
        ("random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            at.func_wrap(name, |_: Cx, ()| Ok(((random_number()?, random_number()?),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn streams(at: &mut LinkerInstance<'_, CallState>, name: &str) -> Result<bool> {
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            at.func_wrap(name, |_: Cx, (_, _): (Resource<InputStream>, u64)| -> Streamed<Vec<u8>> {
                Ok((Err(StreamError::Closed),))
            })?;
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            at.func_wrap(name, |_: Cx, (_, _): (Resource<InputStream>, u64)| -> Streamed<u64> {
                Ok((Err(StreamError::Closed),))
            })?;
        }
        "[method]input-stream.subscribe" => {
            at.func_wrap(name, |cx: Cx, (_,): (Resource<InputStream>,)| Ok((own::<Pollable>(cx, 0),)))?;
        }
        "[method]output-stream.subscribe" => {
            at.func_wrap(name, |cx: Cx, (_,): (Resource<OutputStream>,)| Ok((own::<Pollable>(cx, 0),)))?;
        }
        "[method]output-stream.check-write" => {
            at.func_wrap(name, |_: Cx, (_,): (Resource<OutputStream>,)| -> Streamed<u64> { Ok((Ok(MAX_WRITE),)) })?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            at.func_wrap(name, |mut cx: Cx, (to, bytes): (Resource<OutputStream>, Vec<u8>)| -> Streamed<()> {
                cx.data_mut().write_output(to.rep() == STDERR, &bytes);
                Ok((Ok(()),))
            })?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            at.func_wrap(name, |_: Cx, (_,): (Resource<OutputStream>,)| -> Streamed<()> { Ok((Ok(()),)) })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Hands a resource to the guest.
fn own<T: 'static>(mut cx: Cx<'_>, number: u32) -> Resource<T> {
    cx.data_mut().handles += 1;
    Resource::new_own(number)
}

/// The guest has dropped a resource.
fn dropped(mut cx: Cx<'_>) -> Result<()> {
    let handles = &mut cx.data_mut().handles;
    *handles = handles.saturating_sub(1);
    Ok(())
}

pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Nanoseconds since the first call in this process.
pub(super) fn monotonic_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // Not from zero: some runtimes take zero for "not yet known".
    1_000_000_000 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn random_bytes(length: u64) -> Result<Vec<u8>> {
    if length > MAX_RANDOM {
        bail!("asked for {length} random bytes at once, more than {MAX_RANDOM}");
    }
    let mut bytes = vec![0; length as usize];
    getrandom::fill(&mut bytes).map_err(|e| Error::msg(format!("no randomness: {e}")))?;
    Ok(bytes)
}

fn random_number() -> Result<u64> {
    getrandom::u64().map_err(|e| Error::msg(format!("no randomness: {e}")))
}
