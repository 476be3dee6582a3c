//! A hundred thousand consumers: how long a file of them takes to load, how much memory, and what a look-up costs beside that of ten. A look-up
//! may not tell by its time whether it has found something: the two kinds are compared by Welch's t, which has to stay below 4.5.
//!
//! Under `cargo test` it runs once with few of them, and fails only where nothing is found.

#![allow(clippy::print_stdout, reason = "it prints what it has measured")]

use std::borrow::Cow;
use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use sluice::services::consumers::{ConsumerSet, CredentialKind, key_hash, lines};

const SAMPLES: usize = 10_000;
/// Look-ups in a sample: one is shorter than a clock's reading.
const EACH: usize = 16;

fn file(consumers: usize) -> String {
    let mut text = format!("{{\"consumers\": {consumers}}}\n");
    for number in 0..consumers {
        let hash = key_hash(key(number).as_bytes());
        let _ = writeln!(
            text,
            "{{\"name\":\"consumer-{number}\",\"plan\":\"gold\",\"labels\":{{\"tier\":\"partner\"}},\"keys\":[\"{hash}\"]}}"
        );
    }
    text
}

/// As long as those that `sluice hash key --new` draws.
fn key(number: usize) -> String {
    format!("{number:043}")
}

fn load(text: &str) -> (ConsumerSet, Duration) {
    let begun = Instant::now();
    let specs = lines::parse(text).expect("a good file");
    let set = ConsumerSet::new(&specs.iter().map(|(_, spec)| Cow::Borrowed(spec)).collect::<Vec<_>>());
    (set.expect("consumers that go together"), begun.elapsed())
}

/// Nanoseconds of a look-up in each sample.
fn times(set: &ConsumerSet, keys: &[String]) -> Vec<f64> {
    let one = |keys: &[String]| {
        let begun = Instant::now();
        for key in keys {
            black_box(set.find(CredentialKind::Key, black_box(key)).is_some());
        }
        begun.elapsed().as_nanos() as f64 / keys.len() as f64
    };
    keys.chunks(EACH).map(one).collect()
}

/// The samples but for their slowest tenth, in which the system did something else.
fn cropped(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples.truncate(samples.len() * 9 / 10);
    samples
}

fn mean_and_variance(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    (mean, samples.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (count - 1.0))
}

fn median(samples: &[f64]) -> f64 {
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (consumers, samples) = if is_bench { (100_000, SAMPLES) } else { (1_000, 10) };
    let text = file(consumers);
    let (many, took) = load(&text);
    let (ten, _) = load(&file(10));
    println!("{consumers} consumers: {} ms to load, {} bytes each", took.as_millis(), many.bytes() / consumers);

    // Keys in no order, so that none is in a cache because of its neighbour.
    let known: Vec<String> = (0..samples * EACH).map(|at| key(at.wrapping_mul(7_919) % consumers)).collect();
    let unknown: Vec<String> = (0..samples * EACH).map(|at| key(consumers + at)).collect();
    let of_ten: Vec<String> = (0..samples * EACH).map(|at| key(at % 10)).collect();
    assert!(known.iter().all(|key| many.find(CredentialKind::Key, key).is_some()));
    assert!(unknown.iter().all(|key| many.find(CredentialKind::Key, key).is_none()));
    // In turns, so that what the machine does meanwhile falls on all.
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for part in 0..10 {
        let of = |keys: &[String]| keys.chunks(keys.len() / 10).nth(part).map(<[String]>::to_vec).unwrap_or_default();
        a.extend(times(&many, &of(&known)));
        b.extend(times(&many, &of(&unknown)));
        c.extend(times(&ten, &of(&of_ten)));
    }
    let (a, b, c) = (cropped(a), cropped(b), cropped(c));
    println!(
        "look-up of a known key {:.0} ns, of an unknown one {:.0} ns; among ten {:.0} ns",
        median(&a),
        median(&b),
        median(&c)
    );
    let ((mean_a, variance_a), (mean_b, variance_b)) = (mean_and_variance(&a), mean_and_variance(&b));
    let t = (mean_a - mean_b) / (variance_a / a.len() as f64 + variance_b / b.len() as f64).sqrt();
    println!(
        "Welch's t of known and unknown keys over {samples} samples: {t:.2} (means {mean_a:.1} and {mean_b:.1} ns)"
    );
}
