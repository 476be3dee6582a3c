//! Files of consumers: no panic, a line for each error, and what is accepted can be found again; a file that was cut off is refused.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use sluice_services::consumers::lines::parse;
use sluice_services::consumers::{ConsumerSet, ConsumerSpec};

fn set(found: &[(usize, ConsumerSpec)]) -> Option<ConsumerSet> {
    ConsumerSet::new(&found.iter().map(|(_, spec)| Cow::Borrowed(spec)).collect::<Vec<_>>()).ok()
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let found = match parse(text) {
        Ok(found) => found,
        Err(error) => {
            assert!((1..=lines.len().max(1)).contains(&error.line), "{error}");
            return;
        }
    };
    // A line means the same alone.
    for (line, spec) in &found {
        assert_eq!(parse(lines[line - 1]).expect("it was accepted"), [(1, spec.clone())]);
        assert!(!spec.name.contains(char::is_control));
    }
    assert!(found.is_sorted_by(|(one, _), (other, _)| one < other));
    // A first line with the number of consumers holds the file together, wherever it is cut.
    let first = lines.iter().position(|line| !line.trim_ascii().is_empty());
    let head = first.filter(|first| found.iter().all(|(line, _)| *line != first + 1));
    if let (Some(head), Some((last, _))) = (head, found.last()) {
        let end: usize = text.split_inclusive('\n').take(last - 1).map(str::len).sum();
        assert!(parse(&text[..end]).is_err(), "cut before line {last}, behind the head in line {}", head + 1);
    }
    if let Some(set) = set(&found) {
        assert_eq!(set.len(), found.len());
        for (_, spec) in &found {
            assert_eq!(set.named(&spec.name).map(|consumer| &*consumer.name), Some(&*spec.name));
        }
    }
});
