//! The calls of the gateway's functions in the hooks of a step, as people read them.

use crate::wasm::{HookCall, HostCall};

/// `on-request: request.header ×2, kv.get; on-response: response.set-header`, in the order of the first calls.
pub(super) fn listed(hooks: &[HookCall]) -> Vec<String> {
    let called = hooks.iter().filter(|hook| !hook.host_calls.is_empty());
    called.map(|hook| format!("{}: {}", hook.hook, counted(&hook.host_calls))).collect()
}

fn counted(calls: &[HostCall]) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for call in calls {
        let name = name(call);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let shown = counts.into_iter().map(|(name, count)| if count == 1 { name } else { format!("{name} ×{count}") });
    shown.collect::<Vec<_>>().join(", ")
}

/// `kv.get`
pub(super) fn name(call: &HostCall) -> String {
    format!("{}.{}", call.interface, call.function)
}

/// The call by which the hooks had used more than `most` of something, with its number from 1; `used` is what a hook had used by then, beside
/// `before` of the hooks before it.
pub(super) fn first_over(
    hooks: &[HookCall],
    most: u64,
    used: impl Fn(&HookCall, usize, &HostCall) -> u64,
    all: impl Fn(&HookCall) -> u64,
) -> Option<(usize, &HostCall)> {
    let (mut number, mut before) = (0, 0_u64);
    for hook in hooks {
        for (at, call) in hook.host_calls.iter().enumerate() {
            number += 1;
            if before.saturating_add(used(hook, at, call)) > most {
                return Some((number, call));
            }
        }
        before = before.saturating_add(all(hook));
    }
    None
}
