//! A folder of files as an upstream.

use std::path::PathBuf;

use crate::http::coding::Coding;
use crate::http::file_path::FilePath;

/// A folder of files that the gateway serves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The folder. It is looked up for each request, so it can be a link that a deployment moves.
    pub root: PathBuf,
    /// The names of the files that a folder is answered with; the first that is there counts.
    pub index: Vec<String>,
    /// The file in place of what is not there, for applications that have their paths in the browser.
    pub fallback: Option<FilePath>,
    /// The content of a 404.
    pub not_found: Option<FilePath>,
    /// The codings of files that may lie beside others, in the order of preference.
    pub precompressed: Vec<Coding>,
}
