//! A hundred thousand consumers: how long a file of them takes to load, how much memory, and what a look-up costs beside that of ten. A look-up
//! may not tell by its time whether it has found something: known and unknown keys, drawn at random and in a random order, are compared by
//! Welch's t. It fails where that is 4.5 or more, which chance does once in 100,000 runs, and where the load or a look-up takes longer than it may.
//!
//! Under `cargo test` it runs once with few of them, and fails only where nothing is found.

#![allow(clippy::print_stdout, reason = "it prints what it has measured")]

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use sluice::services::consumers::{ConsumerSet, CredentialKind, key_hash, lines};

const SAMPLES: usize = 10_000;
/// The longest that a file may take to load, …
const LONGEST_LOAD: Duration = Duration::from_secs(2);
/// … that a changed one may take while the old one is in use, …
const LONGEST_CHANGE: Duration = Duration::from_millis(500);
/// … and that a look-up may take longer than among ten.
const MOST_NS_MORE: f64 = 300.0;
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

/// What is looked up in a sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Known,
    Unknown,
    OfTen,
}

/// Numbers in no order, the same in each run.
fn drawn(at: usize, below: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    at.hash(&mut hasher);
    (hasher.finish() % below as u64) as usize
}

/// The samples in a random order, so that what the machine does meanwhile and what is in its caches is the same for all kinds. The keys of
/// each are drawn anew, so that a known one comes again as often as an unknown one meets the same entries again.
fn plan(consumers: usize, samples: usize) -> Vec<(Kind, Vec<String>)> {
    let kinds = [Kind::Known, Kind::Unknown, Kind::OfTen];
    let mut order: Vec<Kind> = kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, samples)).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, drawn(at, at + 1));
    }
    let keys = |(sample, kind): (usize, Kind)| {
        let number = |at: usize| {
            let draw = |below| drawn(order_of(sample, at), below);
            match kind {
                Kind::Known => draw(consumers),
                Kind::Unknown => consumers + draw(1 << 40),
                Kind::OfTen => draw(10),
            }
        };
        (kind, (0..EACH).map(|at| key(number(at))).collect())
    };
    order.iter().copied().enumerate().map(keys).collect()
}

/// A number for each key of each sample, none of which is one of the order's.
fn order_of(sample: usize, at: usize) -> usize {
    (1 << 40) + sample * EACH + at
}

/// Nanoseconds of a look-up of these keys.
fn time(set: &ConsumerSet, keys: &[String]) -> f64 {
    let begun = Instant::now();
    for key in keys {
        black_box(set.find(CredentialKind::Key, black_box(key)).is_some());
    }
    begun.elapsed().as_nanos() as f64 / keys.len() as f64
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
    // The machine may do something else once.
    let change = (0..3).map(|_| load(&text).1).min().unwrap_or_default();
    println!("{} ms to load once more", change.as_millis());
    assert!(!is_bench || took < LONGEST_LOAD, "{took:?} to load");
    assert!(!is_bench || change < LONGEST_CHANGE, "{change:?} to load once more");
    let (ten, _) = load(&file(10));
    println!("{consumers} consumers: {} ms to load, {} bytes each", took.as_millis(), many.bytes() / consumers);

    let plan = plan(consumers, samples);
    for (kind, keys) in &plan {
        let set = if *kind == Kind::OfTen { &ten } else { &many };
        assert!(keys.iter().all(|key| set.find(CredentialKind::Key, key).is_some() == (*kind != Kind::Unknown)));
    }
    let (mut known, mut unknown, mut of_ten) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, keys) in &plan {
        match kind {
            Kind::Known => known.push(time(&many, keys)),
            Kind::Unknown => unknown.push(time(&many, keys)),
            Kind::OfTen => of_ten.push(time(&ten, keys)),
        }
    }
    let (known, unknown, of_ten) = (cropped(known), cropped(unknown), cropped(of_ten));
    println!(
        "look-up of a known key {:.0} ns, of an unknown one {:.0} ns; among ten {:.0} ns",
        median(&known),
        median(&unknown),
        median(&of_ten)
    );
    let more = median(&known) - median(&of_ten);
    assert!(!is_bench || more < MOST_NS_MORE, "{more:.0} ns more than among ten");
    let ((mean_a, variance_a), (mean_b, variance_b)) = (mean_and_variance(&known), mean_and_variance(&unknown));
    let t = (mean_a - mean_b) / (variance_a / known.len() as f64 + variance_b / unknown.len() as f64).sqrt();
    println!(
        "Welch's t of known and unknown keys over {samples} samples: {t:.2} (means {mean_a:.1} and {mean_b:.1} ns)"
    );
    assert!(!is_bench || t.abs() < 4.5, "known and unknown keys can be told apart by time");
}
