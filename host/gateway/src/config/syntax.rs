//! What is said of TOML that is broken: where a list begins that has not ended, and where a key stands that is there twice.

use toml_parser::lexer::TokenKind;

/// The list or inline table of an earlier line that is still open at this byte: likely the one whose end was forgotten. None when what
/// is open begins within the same line.
pub(super) fn unclosed(text: &str, offset: usize) -> Option<(&'static str, usize)> {
    let mut open = Vec::new();
    // A bracket that begins a statement is a header, not a list.
    let mut begins = true;
    for token in toml_parser::Source::new(text).lex() {
        let at = token.span().start();
        if at >= offset {
            break;
        }
        match token.kind() {
            TokenKind::LeftSquareBracket if !open.is_empty() || !begins => open.push(("list", at)),
            TokenKind::LeftCurlyBracket => open.push(("table", at)),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => drop(open.pop()),
            _ => {}
        }
        begins = match token.kind() {
            TokenKind::Whitespace => begins,
            // Of `[[name]]`.
            TokenKind::LeftSquareBracket => begins && open.is_empty(),
            kind => kind == TokenKind::Newline,
        };
    }
    let line = text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
    // In an open list a header looks like one more list.
    let is_header = |at: usize| text.get(line..at).is_some_and(|before| before.trim().is_empty());
    open.pop_if(|(_, at)| *at >= line && is_header(*at));
    open.pop().filter(|(_, at)| *at < line)
}

/// A line that is a table's header or begins with a key, and what is said again where it is there twice.
struct Statement<'t> {
    /// Where it begins, behind the white space of its line.
    offset: usize,
    /// The whole header, or the key.
    text: &'t str,
}

impl<'t> Statement<'t> {
    /// Of a line that begins at this byte.
    fn of(line: &'t str, begin: usize) -> Statement<'t> {
        let text = line.trim_start();
        let offset = begin + line.len() - text.len();
        let end = match text.as_bytes().first() {
            Some(b'[') => text.find('#'),
            // What a quoted key has in it, a sign of equality too, is not looked at.
            Some(quote @ (b'"' | b'\'')) => {
                text.get(1..).and_then(|rest| rest.find(char::from(*quote))).map(|at| at + 2)
            }
            _ => text.find('='),
        };
        Statement { offset, text: text.get(..end.unwrap_or(text.len())).unwrap_or(text).trim_end() }
    }

    fn is_header(&self) -> bool {
        self.text.starts_with('[') && self.text.ends_with(']') && !self.text.contains(['=', ',', '{'])
    }

    /// Whether it begins another element of a list of tables that this header is in: what stands before is of other elements.
    fn begins_element_of(&self, header: &Statement<'_>) -> bool {
        let name = self.text.strip_prefix("[[").and_then(|text| text.strip_suffix("]]"));
        name.is_some_and(|name| {
            header.text.trim_start_matches('[').strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
        })
    }
}

/// Where a key that is there twice stands before, and where what follows from it ends.
pub(super) struct Repeated {
    pub(super) before: Option<usize>,
    pub(super) end: usize,
}

/// Looks for the statement of this key in the lines above it, of a key within its table. Lists and texts of several lines are not
/// taken apart: a line in one may be taken for it.
pub(super) fn repeated(text: &str, offset: usize) -> Repeated {
    let begin = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let (above, below) = text.split_at_checked(begin).unwrap_or((text, ""));
    let this = Statement::of(below.lines().next().unwrap_or_default(), begin);
    let within = offset.checked_sub(this.offset).filter(|within| *within < this.text.len());
    let Some(within) = within.filter(|_| this.is_header() || !this.text.contains(['[', '{', ','])) else {
        return Repeated { before: None, end: offset };
    };
    let mut before = None;
    let mut at = above.len();
    for line in above.split_inclusive('\n').rev() {
        at -= line.len();
        let one = Statement::of(line, at);
        if one.text == this.text {
            before = Some(one.offset + within);
            break;
        }
        let is_boundary = if this.is_header() { one.begins_element_of(&this) } else { one.is_header() };
        if is_boundary {
            break;
        }
    }
    let lines = below.split_inclusive('\n').skip(1);
    let lines = lines.take_while(|line| this.is_header() && !Statement::of(line, 0).is_header());
    let first = below.split_inclusive('\n').next().map_or(0, str::len);
    let end = if this.is_header() { begin + first + lines.map(str::len).sum::<usize>() } else { offset };
    Repeated { before, end }
}
