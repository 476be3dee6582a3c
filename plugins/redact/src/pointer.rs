//! JSON pointers (RFC 6901) with `*` for any one step and `**` for any number of them, and which of them a place in a document fits.

/// A step of a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The member of this name, or the element of this number.
    Name(String),
    /// `*`.
    Any,
    /// `**`.
    Deep,
}

/// Where something may be in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<Step>);

/// How many steps a pointer may have.
const STEPS: usize = 64;

impl std::str::FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Pointer, String> {
        if text.is_empty() {
            return Ok(Pointer(Vec::new()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "`{text}` is no JSON pointer: expected one that begins with `/`, such as `/user/password`"
            ));
        };
        let steps: Vec<Step> = rest
            .split('/')
            .map(|step| match step {
                "*" => Some(Step::Any),
                "**" => Some(Step::Deep),
                _ => unescape(step).map(Step::Name),
            })
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{text}` has a `~` that is not followed by `0` (`~`), `1` (`/`) or `2` (`*`)"))?;
        if steps.len() > STEPS {
            return Err(format!("`{text}` has more than {STEPS} steps"));
        }
        Ok(Pointer(steps))
    }
}

/// RFC 6901 §4, and `~2` for a star.
fn unescape(step: &str) -> Option<String> {
    let mut out = String::with_capacity(step.len());
    let mut letters = step.chars();
    while let Some(letter) = letters.next() {
        out.push(match letter {
            '~' => match letters.next()? {
                '0' => '~',
                '1' => '/',
                '2' => '*',
                _ => return None,
            },
            letter => letter,
        });
    }
    Some(out)
}

/// A step into a document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Branch<'a> {
    /// A member, by its name without escapes.
    Member(&'a [u8]),
    /// An element, by its number.
    Element(usize),
}

/// Pointers of several rules, compared with a document at the same time.
#[derive(Debug, Default)]
pub(crate) struct Pointers {
    /// Each with the number of its rule.
    list: Vec<(usize, Pointer)>,
}

/// How far a pointer fits the way to a place: that many of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    pointer: usize,
    steps: usize,
}

/// The pointers that still fit at each level of the way to a place.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    ways: Vec<Way>,
    /// Where each level begins in `ways`.
    levels: Vec<usize>,
}

impl Pointers {
    pub(crate) fn add(&mut self, rule: usize, pointer: Pointer) {
        self.list.push((rule, pointer));
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The trail at the root of a document.
    pub(crate) fn root(&self) -> Trail {
        let mut trail = Trail { ways: Vec::new(), levels: vec![0] };
        for pointer in 0..self.list.len() {
            self.reach(&mut trail, Way { pointer, steps: 0 });
        }
        trail
    }

    /// Goes one level down. [`Trail::up`] leads back.
    pub(crate) fn down(&self, trail: &mut Trail, into: Branch<'_>) {
        let (begin, end) = (trail.levels.last().copied().unwrap_or(0), trail.ways.len());
        trail.levels.push(end);
        let mut digits = [0; 20];
        for at in begin..end {
            let way = trail.ways[at];
            match self.list[way.pointer].1.0.get(way.steps) {
                Some(Step::Name(name)) => {
                    let fits = match into {
                        Branch::Member(member) => name.as_bytes() == member,
                        Branch::Element(number) => name.as_bytes() == decimal(number, &mut digits),
                    };
                    if fits {
                        self.reach(trail, Way { steps: way.steps + 1, ..way });
                    }
                }
                Some(Step::Any) => self.reach(trail, Way { steps: way.steps + 1, ..way }),
                Some(Step::Deep) => self.reach(trail, way),
                None => {}
            }
        }
    }

    /// The first rule of which a pointer leads to this place.
    pub(crate) fn hit(&self, trail: &Trail) -> Option<usize> {
        let level = trail.levels.last().copied().unwrap_or(0);
        let ways = trail.ways[level..].iter();
        ways.filter(|way| self.list[way.pointer].1.0.len() == way.steps).map(|way| self.list[way.pointer].0).min()
    }

    /// Adds a way to the last level, once, and those that follow from it since `**` may be no step at all.
    fn reach(&self, trail: &mut Trail, mut way: Way) {
        let level = trail.levels.last().copied().unwrap_or(0);
        loop {
            if trail.ways[level..].contains(&way) {
                return;
            }
            trail.ways.push(way);
            if self.list[way.pointer].1.0.get(way.steps) != Some(&Step::Deep) {
                return;
            }
            way.steps += 1;
        }
    }
}

impl Trail {
    /// Goes back to the level above.
    pub(crate) fn up(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.ways.truncate(level);
        }
    }

    /// Whether no pointer fits here, and so none below.
    pub(crate) fn is_lost(&self) -> bool {
        self.levels.last().is_none_or(|level| *level == self.ways.len())
    }
}

/// A number as text, without an allocation for each element of a list.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
