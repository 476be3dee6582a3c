//! Endpoints of a file that others write, in place or by replacing it. inotify tells of changes; the file is also compared from time to
//! time, which finds what inotify has missed and says how old the list is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::document::{self, Format};
use super::listed::Last;
use super::sources::Stopped;
use super::statistics::{Fault, FaultKind};
use super::{Feed, Listed};
use crate::background::Background;
use crate::config::read_file;
use crate::upstream::spec::EndpointSpec;
use crate::watcher::{Change, Names, Watcher, steps};

/// The largest file.
const MAX_FILE: u64 = 16 << 20;
/// How often the file is compared while changes are reported …
const COMPARE: Duration = Duration::from_secs(10);
/// … and while they are not.
const POLL: Duration = Duration::from_secs(1);

/// The endpoints of a file. **Reads it.**
pub(super) fn read(path: &Path) -> Result<Vec<EndpointSpec>, Fault> {
    parse(path, &text(path)?)
}

fn text(path: &Path) -> Result<Vec<u8>, Fault> {
    read_file(path, MAX_FILE).map_err(|error| Fault::new(FaultKind::Unavailable, error.to_string()))
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<EndpointSpec>, Fault> {
    let format = match path.extension() {
        Some(extension) if extension == "toml" => Format::Toml,
        _ => Format::Json,
    };
    document::read(text, format).map_err(|reason| Fault::new(FaultKind::Invalid, reason))
}

/// Reads the file whenever it may have changed.
pub(super) async fn follow(path: PathBuf, feed: &Feed, background: &Background) {
    let (tell, mut changes) = unbounded_channel();
    let start = || {
        let tell = tell.clone();
        let watcher = Watcher::start(background, move |change| {
            // Fails when this source has ended.
            let _ = tell.send(change);
        });
        let warn =
            |error: &io::Error| tracing::warn!(%error, file = %path.display(), "the file is compared every second");
        watcher.inspect_err(warn).ok()
    };
    let mut watcher = start();
    let mut last = Last::none();
    loop {
        let Looked { text, is_watched, watcher: used } = match look(&feed.listed, path.clone(), watcher).await {
            Ok(looked) => looked,
            Err(stopped) => {
                feed.listed.fault(&stopped.into());
                tokio::time::sleep(COMPARE).await;
                // The other one went with the job.
                watcher = start();
                continue;
            }
        };
        watcher = used;
        match text {
            Ok(text) => {
                let path = path.clone();
                feed.read(&mut last, text.into(), move |text| parse(&path, text)).await;
            }
            Err(fault) => feed.listed.fault(&fault),
        }
        wait(&feed.listed, &mut changes, if is_watched { COMPARE } else { POLL }).await;
    }
}

struct Looked {
    text: Result<Vec<u8>, Fault>,
    is_watched: bool,
    watcher: Option<Watcher>,
}

/// Watches what leads to the file as it is now, and reads it.
async fn look(listed: &Listed, path: PathBuf, watcher: Option<Watcher>) -> Result<Looked, Stopped> {
    let look = move || {
        let mut watcher = watcher.filter(|watcher| !watcher.has_ended());
        // Before it is read, so that no change after that is missed.
        let is_watched = watcher.as_mut().is_some_and(|watcher| watcher.follow(directories(&path)).is_empty());
        Looked { text: text(&path), is_watched, watcher }
    };
    listed.sources().disk().run(look).await
}

/// The directories on the way to a file, each with the names that matter in it.
fn directories(path: &Path) -> BTreeMap<PathBuf, Names> {
    let mut directories: BTreeMap<PathBuf, Names> = BTreeMap::new();
    for (directory, name) in steps(path) {
        directories.entry(directory).or_insert_with(|| Some(BTreeSet::new())).get_or_insert_default().insert(name);
    }
    directories
}

/// Waits for a change that matters, for this long at most.
async fn wait(listed: &Listed, changes: &mut UnboundedReceiver<Change>, longest: Duration) {
    let change = async {
        while let Some(first) = changes.recv().await {
            let mut all = vec![first];
            while let Ok(next) = changes.try_recv() {
                all.push(next);
            }
            let matters = listed.sources().disk().run(move || all.iter().any(Change::matters)).await;
            if matters.unwrap_or(true) {
                return;
            }
        }
        // Nobody reports changes any more.
        std::future::pending().await
    };
    let _ = tokio::time::timeout(longest, change).await;
}
