//! The pages, and the parts of them that can be checked: fenced blocks, links, headings. Running them is not done here.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// What a page says to the tests, in an HTML comment above a block: `<!-- docs-test: file=src/lib.rs -->`.
const MARK: &str = "<!-- docs-test:";

pub(crate) struct Page {
    /// Below the root of the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) struct Block {
    /// The line of the fence, from 1.
    pub(crate) line: usize,
    /// The word behind the fence.
    pub(crate) kind: String,
    /// The words of the comment above it.
    pub(crate) marks: Vec<String>,
    pub(crate) text: String,
}

impl Block {
    /// The value of `name=value` among the marks.
    pub(crate) fn mark(&self, name: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn has_mark(&self, name: &str) -> bool {
        self.marks.iter().any(|mark| mark == name)
    }
}

/// The root of the repository: the folder above, wherever the package of these tests lies, that has the book.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("docs/book.toml").exists());
    root.expect("a folder with docs/book.toml").to_owned()
}

/// Every page that a reader is sent to.
pub(crate) fn pages() -> Vec<Page> {
    let root = root();
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"];
    let mut found = top.map(|file| root.join(file)).to_vec();
    for folder in ["docs/src", "sdk", "plugins", "examples"] {
        walk(&root.join(folder), &mut found);
    }
    found.sort();
    let pages: Vec<_> = found.iter().map(|file| page(&root, file)).collect();
    assert!(pages.len() > 25, "{} pages: is this the right folder?", pages.len());
    pages
}

fn page(root: &Path, file: &Path) -> Page {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let path = file.strip_prefix(root).expect("a path below the root").to_string_lossy().into_owned();
    Page { path, text }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of pages").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().expect("a name").to_string_lossy().into_owned();
        if entry.is_dir() && !["target", "node_modules", "src"].contains(&&*name)
            || folder.ends_with("docs/src") && entry.is_dir()
        {
            walk(&entry, found);
        } else if name.ends_with(".md") {
            found.push(entry);
        }
    }
}

impl Page {
    /// Its fenced blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        let mut above = "";
        for (index, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(kind)) => {
                    let marks = above.trim().strip_prefix(MARK).and_then(|rest| rest.strip_suffix("-->"));
                    let marks = marks.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
                    open = Some(Block { line: index + 1, kind: kind.trim().to_owned(), marks, text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
            above = line;
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.path);
        blocks
    }

    /// The text without its fenced blocks and code spans, line by line.
    fn prose(&self) -> Vec<String> {
        let span = Regex::new("`[^`]*`").expect("a pattern");
        let mut fenced = false;
        let lines = self.text.lines().map(|line| {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                return String::new();
            }
            if fenced { String::new() } else { line.to_owned() }
        });
        // A heading may have a code span, which its anchor keeps.
        lines.map(|line| if line.starts_with('#') { line } else { span.replace_all(&line, "").into_owned() }).collect()
    }

    /// The targets of its links with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
        let lines = self.prose();
        let targets = |(index, line): (usize, &String)| -> Vec<_> {
            link.captures_iter(line).map(|found| (index + 1, found[1].to_owned())).collect()
        };
        lines.iter().enumerate().flat_map(targets).collect()
    }

    /// The anchors of its headings, as Git hosts and mdBook make them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let headings = self.prose().into_iter().filter_map(|line| {
            let (marks, title) = line.split_once(' ')?;
            (!marks.is_empty() && marks.chars().all(|c| c == '#')).then(|| title.to_owned())
        });
        let anchor = |title: String| {
            let kept =
                title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
            let anchor = kept.trim().replace(' ', "-");
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        };
        headings.map(anchor).collect()
    }
}

#[test]
fn blocks_links_and_anchors_are_found() {
    let text = "# A `b`: c\n[x](y.md#z) `[no](link)`\n<!-- docs-test: file=f run -->\n```toml\n[a]\n```\n## A\n## A\n";
    let page = Page { path: "p.md".into(), text: text.into() };
    let blocks = page.blocks();
    assert_eq!((blocks.len(), blocks[0].line, &*blocks[0].kind, &*blocks[0].text), (1, 4, "toml", "[a]\n"));
    assert_eq!((blocks[0].mark("file"), blocks[0].has_mark("run")), (Some("f"), true));
    assert_eq!(page.links(), [(2, "y.md#z".to_owned())]);
    assert_eq!(page.anchors(), ["a-b-c", "a", "a-1"]);
}
