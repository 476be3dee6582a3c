//! Configurations that are wrong in ways that nobody has thought of: those of this repository with some bytes changed. None panics, and each
//! error has a place in the file. `SLUICE_TEST_MUTATIONS=100000 cargo test -p sluice --lib mutations` tries for longer.

use super::*;

/// What is put into a text: the words of newer parts of the configuration, and what is special in TOML, paths and URLs.
const WORDS: [&str; 36] = [
    "any_of",
    "all_of",
    "try_next_on",
    "optional",
    "[401, 503]",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "'''",
    "\"",
    "=",
    "\n",
    ".",
    ",",
    "#",
    "upstream://",
    "upstream://users@a/",
    "http://[::1",
    "https://a:99999",
    "${env:X}",
    "${file:/etc/passwd}",
    "${",
    "allow_private = true",
    "sha256:",
    "$argon2id$v=19$",
    "consumers",
    "jwt = { issuer = 'a', keys = { secret = 'x' } }",
    "{a=**}",
    "/**/{b}",
    "-1",
    "1e309",
    "99999999999999999999",
    "\u{0}",
    "\u{fffd}ü",
];

/// Small ones, so that a change hits what it is about.
const GROUPS: &str = "[routes.r]\nmatch = { path = '/**' }\nupstream = 'users'\npipeline = ['a', { any_of = ['b', { all_of = ['a', 'b'] }], try_next_on = [401, 403], optional = true }]\n\
    [upstreams.users]\nendpoints = ['http://10.0.0.1:80']\n[pipelines]\ndefault = [{ any_of = ['a'] }]\n\
    [filters.a]\ngrants = { upstreams = ['users'], http = [{ origin = 'http://auth.internal', allow_private = true }], consumers = true }\n[filters.b]\n\
    [consumers.acme]\nplan = 'gold'\nlabels = { t = 'p' }\nkeys = ['sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08']\n\
    jwt = { issuer = 'https://a.example', audiences = ['x'], keys = { jwks_url = 'https://a.example/k' } }\n";

/// A fixed sequence (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize % end.max(1)
    }

    /// A part of a text.
    fn part(&mut self, chars: &[char], longest: usize) -> std::ops::Range<usize> {
        let from = self.below(chars.len() + 1);
        from..chars.len().min(from + self.below(longest))
    }

    fn changed(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(4) {
            let part = self.part(&chars, 40);
            match self.below(4) {
                0 => drop(chars.drain(part)),
                1 => {
                    let copy = chars[part].to_vec();
                    let at = self.below(chars.len() + 1);
                    chars.splice(at..at, copy);
                }
                2 => {
                    let word = WORDS[self.below(WORDS.len())].chars();
                    chars.splice(part, word);
                }
                _ => {
                    let word = WORDS[self.below(WORDS.len())].chars();
                    chars.splice(part.start..part.start, word);
                }
            }
        }
        chars.into_iter().collect()
    }
}

#[test]
fn a_changed_configuration_is_accepted_or_has_errors_with_their_places() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| fs::read_to_string(top.join(path)).unwrap();
    let texts = [format!("{LISTENER}{GROUPS}"), read("gateway.toml"), read("examples/from-kong/gateway.toml")];
    let count = std::env::var("SLUICE_TEST_MUTATIONS").map_or(600, |count| count.parse().expect("a number"));
    let mut random = Random(18);
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..count {
        // Half of them are changes of the small one.
        let text = random.changed(&texts[(number % 4_usize).saturating_sub(1)]);
        let (directory, loaded) = load_with(&text, &[]);
        let Err(errors) = loaded else {
            accepted += 1;
            continue;
        };
        refused += 1;
        assert!(errors.iter().next().is_some());
        let base = format!("{}/gateway.toml", directory.path().display());
        for error in errors.iter() {
            let said = error.to_string();
            let place = said.strip_prefix(&base).and_then(|rest| rest.strip_prefix(':'));
            let line = place.and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            let lines = text.split('\n').count();
            assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{said}\nof\n{text}");
        }
    }
    assert!(
        accepted > 0 && refused > 0,
        "{accepted} accepted, {refused} refused: do the changes still reach anything?"
    );
}
