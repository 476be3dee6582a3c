//! The memory of a connection: how large its parts and its futures are.

use super::super::activity::{Activity, Watched};
use super::*;
use crate::http1::Incoming;

/// The size of the future that a function makes.
fn future_of<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn idle_connections_are_small() {
    // What is only there while the protocol is found, or for the time of an exchange, has memory of its own.
    let task = future_of(connection::serve::<Facts>);
    let http1 = future_of(|(transport, activity, info, patience), worker| {
        http1::serve::<Facts>(transport, activity, info, patience, worker)
    });
    let silent = future_of(connection::plain::<Facts>);
    let handshake = future_of(|(accepted, config), worker| handshake::over_tls::<Facts>(accepted, config, worker));
    let parts = [size_of::<Incoming>(), size_of::<ConnectionInfo>(), size_of::<Watched>(), size_of::<Activity>()];
    assert!(task <= 128, "the task of a connection: {task} bytes");
    assert!(http1 <= 448, "what waits for a request: {http1} bytes");
    assert!(silent <= 1152, "what waits for the first bytes: {silent} bytes");
    // Beside it, one step of the handshake at a time has memory of its own.
    assert!(handshake <= 2304, "what waits for a handshake: {handshake} bytes");
    assert!(parts.iter().sum::<usize>() <= 656, "the parts of a connection: {parts:?} bytes");
}
