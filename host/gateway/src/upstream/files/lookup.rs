//! Which file answers for a path: itself, the index of a folder, the fallback, the page for a 404, and of each the one with the content
//! coding that the client likes best.

use std::os::fd::OwnedFd;

use http::HeaderValue;
use smallvec::SmallVec;

use super::open::{self, Entry, OpenError, OpenFile, Waits};
use super::types;
use crate::config::model::Files;
use crate::http::coding::Coding;
use crate::http::file_path::FilePath;

/// What a request wants.
pub(super) struct Wanted {
    /// None: no file can have its path.
    pub(super) path: Option<FilePath>,
    /// The codings that are fine, the best first.
    pub(super) codings: SmallVec<[Coding; 3]>,
}

pub(super) enum Answer {
    File(Found),
    /// It is a folder with an index, and the path lacks its slash: links in the index would lead elsewhere.
    Redirect,
    NotFound,
    Forbidden,
}

/// A file that answers a request.
pub(super) struct Found {
    pub(super) file: Box<OpenFile>,
    pub(super) content_type: HeaderValue,
    pub(super) coding: Option<Coding>,
    /// It says that there is nothing.
    pub(super) is_not_found: bool,
}

/// The answer for a path.
pub(super) fn lookup(folder: &Files, wanted: &Wanted, waits: Waits) -> Result<Answer, OpenError> {
    let search = Search { root: open::root(&folder.root, waits)?, folder, wanted, waits };
    let Some(path) = &wanted.path else { return search.not_found() };
    let is_folder = path.is_folder();
    let entry = if is_folder { Entry::Folder } else { search.entry(path)? };
    match entry {
        Entry::File(file) => search.answer(file, path),
        Entry::Folder => match search.index(path)? {
            Index::File(file, name) if is_folder => search.answer(file, &name),
            Index::File(..) => Ok(Answer::Redirect),
            Index::Absent => search.absent(path),
            Index::Forbidden => Ok(Answer::Forbidden),
        },
        Entry::Absent => search.absent(path),
        Entry::Forbidden => Ok(Answer::Forbidden),
    }
}

struct Search<'a> {
    root: OwnedFd,
    folder: &'a Files,
    wanted: &'a Wanted,
    waits: Waits,
}

/// The index of a folder.
enum Index {
    File(Box<OpenFile>, FilePath),
    Absent,
    Forbidden,
}

impl Search<'_> {
    fn entry(&self, path: &FilePath) -> Result<Entry, OpenError> {
        open::entry(&self.root, path.relative(), self.waits)
    }

    fn index(&self, path: &FilePath) -> Result<Index, OpenError> {
        for name in &self.folder.index {
            let path = path.join(name);
            match self.entry(&path)? {
                Entry::File(file) => return Ok(Index::File(file, path)),
                Entry::Forbidden => return Ok(Index::Forbidden),
                Entry::Folder | Entry::Absent => {}
            }
        }
        Ok(Index::Absent)
    }

    /// A path that nothing is at. One below `/.well-known/` has a meaning that the fallback does not have.
    fn absent(&self, path: &FilePath) -> Result<Answer, OpenError> {
        if let Some(fallback) = self.folder.fallback.as_ref().filter(|_| !path.is_well_known())
            && let Entry::File(file) = self.entry(fallback)?
        {
            return self.answer(file, fallback);
        }
        self.not_found()
    }

    fn not_found(&self) -> Result<Answer, OpenError> {
        if let Some(page) = &self.folder.not_found
            && let Entry::File(file) = self.entry(page)?
        {
            return Ok(Answer::File(Found { is_not_found: true, ..self.found(file, page)? }));
        }
        Ok(Answer::NotFound)
    }

    fn answer(&self, file: Box<OpenFile>, path: &FilePath) -> Result<Answer, OpenError> {
        self.found(file, path).map(Answer::File)
    }

    /// The file, or the one beside it that has a coding.
    fn found(&self, file: Box<OpenFile>, path: &FilePath) -> Result<Found, OpenError> {
        let content_type = types::of(path.relative());
        for &coding in &self.wanted.codings {
            if let Entry::File(file) = self.entry(&path.with_suffix(coding.suffix()))? {
                return Ok(Found { file, content_type, coding: Some(coding), is_not_found: false });
            }
        }
        Ok(Found { file, content_type, coding: None, is_not_found: false })
    }
}
