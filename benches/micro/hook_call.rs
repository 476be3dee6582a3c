//! What a call into a filter costs: an empty hook and the header filter of examples/, on reused and fresh instances; and the
//! shipped plugins, on reused ones.

#[path = "shared/guests.rs"]
mod guests;

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::wasm::{Mode, Runtime, RuntimeOptions, Verdict};

fn calls(c: &mut Criterion) {
    let runtime = Runtime::new(RuntimeOptions { instances: 50, ..RuntimeOptions::default() }).expect("the runtime");
    let local = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("hook_call");
    for guest in guests::guests() {
        let fresh = matches!(guest.name, "empty" | "header");
        for mode in [Mode::Reused, Mode::Fresh].into_iter().filter(|mode| fresh || *mode == Mode::Reused) {
            let word = if mode == Mode::Reused { "reused" } else { "fresh" };
            let pool = guests::pool(&runtime, &guest, mode);
            for hook in guest.hooks {
                group.bench_function(format!("{}/{hook}/{word}", guest.name), |b| {
                    b.iter_custom(|times| {
                        local.block_on(async {
                            let mut exchange = guests::exchange(&guest);
                            let start = Instant::now();
                            for _ in 0..times {
                                let result;
                                (exchange, result) = pool.call(*hook, exchange, 0).await;
                                assert_eq!(result.expect("a verdict"), Verdict::Continue);
                                // So that each call finds what the first one found.
                                exchange.roll_back();
                            }
                            start.elapsed()
                        })
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
