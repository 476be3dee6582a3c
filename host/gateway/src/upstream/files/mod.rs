//! A folder of files as an upstream. `lookup` says which file answers for a path, `open` has the kernel hold it below the folder, `head`
//! makes the response, and `body` reads the content in pieces. Which names a path can have at all is in [`FilePath`].
//!
//! Nothing waits for a disk on a worker. What the kernel has in memory is opened and read at once; all else goes to `disk`, a bounded
//! number of jobs on threads of their own.

mod body;
mod disk;
mod head;
mod lookup;
mod open;
mod types;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, Request, Response};

use self::lookup::{Answer, Wanted, lookup};
use self::open::{OpenError, Waits};
use super::error::{AttemptError, UpstreamErrorKind};
use crate::config::model::Files;
use crate::http::body::{Body, BodyError};
use crate::http::buffer::MemoryBudget;
use crate::http::coding;
use crate::http::file_path::FilePath;

/// Why a folder can't be served, or not now.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the folder `{}`: {source}", root.display())]
    Folder { root: PathBuf, source: io::Error },
    #[error("a file in the folder `{}`: {source}", root.display())]
    File { root: PathBuf, source: io::Error },
    #[error("a file in the folder `{}`: {source}", root.display())]
    Content { root: PathBuf, source: BodyError },
}

/// **Blocks**: whether the folder is there, and whether the kernel can hold files below it.
pub(super) fn check(folder: &Files) -> Result<(), FilesError> {
    let failed = |source| FilesError::Folder { root: folder.root.clone(), source };
    let root = open::root(&folder.root, Waits::ForDisk).map_err(|error| failed(error.into()))?;
    open::entry(&root, b"", Waits::ForDisk).map_err(|error| failed(error.into()))?;
    Ok(())
}

/// Answers a request with a file.
pub(super) async fn answer(
    folder: &Arc<Files>,
    request: &Request<Body>,
    budget: &MemoryBudget,
) -> Result<Response<Body>, AttemptError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(head::method_not_allowed());
    }
    let wanted = Wanted {
        path: FilePath::parse(request.uri().path()),
        codings: coding::acceptable(request.headers(), &folder.precompressed),
    };
    let looked_up = match lookup(folder, &wanted, Waits::Never) {
        Err(OpenError::WouldWait) => {
            let folder = Arc::clone(folder);
            disk::wait_for(move || lookup(&folder, &wanted, Waits::ForDisk))
                .await
                .unwrap_or_else(|error| Err(error.into()))
        }
        at_once => at_once,
    };
    match looked_up {
        Ok(Answer::File(found)) => {
            let (head, content) = head::of_file(request, &found, !folder.precompressed.is_empty());
            let body = body::of(found.file.file, content, budget)
                .await
                .map_err(|source| failed(FilesError::Content { root: folder.root.clone(), source }))?;
            Ok(head.map(|()| body))
        }
        Ok(Answer::Redirect) => Ok(head::to_folder(request.method(), request.uri())),
        Ok(Answer::NotFound) => Ok(head::not_found(request.method())),
        Ok(Answer::Forbidden) => Ok(head::forbidden(request.method())),
        Err(error) => Err(failed(FilesError::File { root: folder.root.clone(), source: error.into() })),
    }
}

fn failed(error: FilesError) -> AttemptError {
    AttemptError::because(UpstreamErrorKind::Files, error)
}
