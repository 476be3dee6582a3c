//! The last good list of each source, kept on disk for a start at which the source is away. A file is replaced as a whole, and believed
//! only if it is the gateway's own: it says where requests go.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::document::{self, Entry};
use super::{Listed, Sources};
use crate::config::model;
use crate::durable;
use crate::upstream::spec::EndpointSpec;

/// The folder below the gateway's state directory.
const FOLDER: &str = "discovery";
/// The form of the files. One of another form is ignored.
const VERSION: u32 = 1;
/// The largest file.
const MAX_FILE: u64 = 64 << 20;
/// Write access of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// After so long a list is written again that its source has confirmed since: the age of the endpoints at the next start is counted from
/// what is on disk.
const RENEW: Duration = Duration::from_secs(3600);
/// Before what could not be written is written again.
const RETRY: Duration = Duration::from_secs(60);

/// What was kept.
pub(super) struct Saved {
    pub(super) at: SystemTime,
    pub(super) specs: Vec<EndpointSpec>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    upstream: String,
    /// What the list is from. That of another source is of no use.
    source: String,
    /// Seconds since 1970.
    saved: u64,
    endpoints: Vec<Entry>,
}

/// The list that was kept of a source. What can't be used is ignored with a line in the log. **Reads a file.**
pub(super) fn restore(sources: &Sources, upstream: &str, source: &model::Discovery) -> Option<Saved> {
    let path = path(sources.state_dir()?, upstream);
    match read(&path, upstream, &source.to_string()) {
        Ok(saved) => {
            let endpoints = saved.specs.len();
            tracing::info!(upstream, %source, endpoints, "the endpoints of the last run are used until the source tells others");
            Some(saved)
        }
        Err(Unusable::Absent) => None,
        Err(Unusable::Because(reason)) => {
            tracing::warn!(upstream, file = %path.display(), reason, "the endpoints of the last run can't be used");
            None
        }
    }
}

/// Keeps the list on disk as long as its upstream runs, at most once in each [`PAUSE`].
pub(super) async fn keep(listed: &Listed) {
    keep_renewed(listed, RENEW).await;
}

async fn keep_renewed(listed: &Listed, renew: Duration) {
    let Some(folder) = listed.sources().state_dir() else {
        let upstream = listed.upstream();
        tracing::warn!(%upstream, "no endpoints are kept for the next start: there is no folder for it, set gateway.state_dir");
        return;
    };
    let (path, source) = (path(folder, listed.upstream()), listed.source().to_string());
    let mut saved_at = UNIX_EPOCH;
    loop {
        let at = match tokio::time::timeout(renew, listed.unsaved()).await {
            Ok(()) => SystemTime::now(),
            Err(_) => match listed.confirmed().filter(|at| *at > saved_at) {
                Some(at) => at,
                None => continue,
            },
        };
        saved_at = at;
        loop {
            let saved = Saved { at, specs: listed.specs() };
            let (path, upstream, source) = (path.clone(), listed.upstream().to_string(), source.clone());
            let write = move || write(&path, &upstream, &source, &saved).map_err(|error| (path, error));
            match listed.sources().disk().run(write).await {
                Ok(Ok(())) => break,
                Ok(Err((path, error))) => {
                    listed.not_saved(&format!("{}: {error}", path.display()));
                }
                Err(stopped) => listed.not_saved(&stopped.to_string()),
            }
            tokio::time::sleep(RETRY).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Names of upstreams have letters, digits, `-`, `_` and `.` only.
fn path(folder: &Path, upstream: &str) -> PathBuf {
    folder.join(FOLDER).join(format!("{upstream}.json"))
}

enum Unusable {
    Absent,
    Because(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Unusable::Absent,
            _ => Unusable::Because(error.to_string()),
        }
    }
}

fn read(path: &Path, upstream: &str, source: &str) -> Result<Saved, Unusable> {
    let because = |reason: String| Unusable::Because(reason);
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let folder = path.parent().ok_or(Unusable::Absent)?;
    for data in [fs::metadata(folder)?, file.metadata()?] {
        own(&data).map_err(because)?;
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(because(format!("it has more than {MAX_FILE} bytes")));
    }
    let document: Document = serde_json::from_slice(&text).map_err(|error| because(error.to_string()))?;
    if document.version != VERSION {
        return Err(because(format!("it is of version {}, expected {VERSION}", document.version)));
    }
    if (&*document.upstream, &*document.source) != (upstream, source) {
        return Err(because(format!("it is of `{}` from {}", document.upstream, document.source)));
    }
    let specs = document::specs(document.endpoints).map_err(because)?;
    Ok(Saved { at: UNIX_EPOCH.checked_add(Duration::from_secs(document.saved)).unwrap_or(UNIX_EPOCH), specs })
}

/// Whether only this user can say what is in it.
fn own(data: &fs::Metadata) -> Result<(), String> {
    let me = fs::metadata("/proc/self").map_err(|error| format!("its owner can't be told: {error}"))?.uid();
    if data.uid() != me {
        return Err("it belongs to another user".to_owned());
    }
    if data.mode() & OTHERS_WRITE != 0 {
        return Err(format!("others may write it (mode {:o})", data.mode() & 0o7777));
    }
    if !data.is_dir() && !data.is_file() {
        return Err("it is no regular file".to_owned());
    }
    Ok(())
}

fn write(path: &Path, upstream: &str, source: &str, saved: &Saved) -> io::Result<()> {
    let document = Document {
        version: VERSION,
        upstream: upstream.to_owned(),
        source: source.to_owned(),
        saved: saved.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        endpoints: document::entries(&saved.specs),
    };
    let text = serde_json::to_vec(&document)?;
    durable::replace(path, &text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;

    use super::super::{Feed, Fetch};
    use super::*;
    use crate::upstream::{EndpointRegistry, Resolver, TargetSpec, Upstream, UpstreamSpec};

    const SOURCE: &str = "consul `orders`";

    fn specs() -> Vec<EndpointSpec> {
        let first = EndpointSpec::from_url("http://10.0.0.1:80").unwrap();
        let labels = vec![("zone".to_owned(), "b".to_owned())];
        let second = EndpointSpec { weight: 3, labels, ..EndpointSpec::from_url("https://[::1]:81").unwrap() };
        vec![first, second]
    }

    fn refused(path: &Path, upstream: &str, source: &str) -> String {
        match read(path, upstream, source) {
            Ok(_) => "it was used".to_owned(),
            Err(Unusable::Absent) => "absent".to_owned(),
            Err(Unusable::Because(reason)) => reason,
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = path(directory.path(), "orders");
        assert_eq!(refused(&file, "orders", SOURCE), "absent");
        let at = UNIX_EPOCH + Duration::from_secs(1_000_000);
        write(&file, "orders", SOURCE, &Saved { at, specs: specs() }).unwrap();
        let Ok(saved) = read(&file, "orders", SOURCE) else { panic!("it is unusable") };
        assert_eq!((saved.at, saved.specs), (at, specs()));
        write(&file, "orders", SOURCE, &Saved { at, specs: specs()[..1].to_vec() }).unwrap();
        let Ok(saved) = read(&file, "orders", SOURCE) else { panic!("it is unusable") };
        assert_eq!(saved.specs, specs()[..1], "replaced");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        let modes = [file.parent().unwrap(), &file].map(|path| fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
    }

    #[test]
    fn a_broken_or_foreign_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = path(directory.path(), "orders");
        let at = SystemTime::now();
        write(&file, "orders", SOURCE, &Saved { at, specs: specs() }).unwrap();
        assert_eq!(refused(&file, "others", SOURCE), "it is of `orders` from consul `orders`");
        assert_eq!(refused(&file, "orders", "srv `orders`"), "it is of `orders` from consul `orders`");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(refused(&file, "orders", SOURCE), "others may write it (mode 666)");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(refused(&file, "orders", SOURCE), "others may write it (mode 777)");
        fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert!(refused(&file, "orders", SOURCE).contains("EOF"));
        fs::write(&file, text.replace("\"version\":1", "\"version\":2")).unwrap();
        assert_eq!(refused(&file, "orders", SOURCE), "it is of version 2, expected 1");
        let link = path(directory.path(), "link");
        symlink(&file, &link).unwrap();
        assert!(refused(&link, "orders", SOURCE).contains("symbolic link"), "{}", refused(&link, "orders", SOURCE));
    }

    /// What its source confirms without a change.
    #[tokio::test(flavor = "local")]
    async fn the_time_of_a_list_that_stays_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = |_| -> Fetch { Arc::new(|_| Box::pin(std::future::ready(Err(String::new())))) };
        let sources = Sources::new(Some(directory.path().to_owned()), Box::new(nowhere));
        let source = model::Discovery::File("/nonexistent/orders.json".into());
        let spec = UpstreamSpec::new("orders", TargetSpec::Discovered(source.clone()));
        let resolver = Resolver::new(&[], None);
        let upstream = Upstream::with_sources(spec, &EndpointRegistry::new(), &resolver, &sources, None).unwrap();
        let listed = Arc::clone(upstream.listed().unwrap());
        let feed = Feed { set: Arc::clone(upstream.set()), listed: Arc::clone(&listed) };
        let (file, source) = (path(directory.path(), "orders"), source.to_string());
        let saved = async |since: SystemTime| {
            while !read(&file, "orders", &source).is_ok_and(|saved| saved.at >= since) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = async {
            assert!(feed.told(specs()).await);
            saved(UNIX_EPOCH).await;
            // As if that had been long ago.
            write(&file, "orders", &source, &Saved { at: UNIX_EPOCH, specs: specs() }).unwrap();
            assert!(feed.told(specs()).await);
            saved(SystemTime::now() - Duration::from_secs(3600)).await;
        };
        tokio::select! {
            () = keep_renewed(&listed, Duration::from_millis(10)) => panic!("it goes on"),
            () = told => {}
        }
    }

    #[test]
    fn a_disk_that_is_full_leaves_the_file_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            write(&path(&file, "orders"), "orders", SOURCE, &Saved { at: SystemTime::now(), specs: specs() }).is_err()
        );
    }
}
