//! Where accounts and certificates are kept: in files that only this user can read, and, where gateways share a state, in that as well. What is on disk
//! is always whole: a file is written beside the old one and renamed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::model::AcmeAuthority;
use crate::durable;
use crate::services::state::{RecordError, Records};

/// More than any chain with its key.
const MAX_FILE: u64 = 1 << 20;
/// The bits of a mode that let others do anything.
const OTHERS: u32 = 0o077;

/// A certificate with all that is to be known of it after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked for.
    pub(super) names: Vec<String>,
    /// The directory of the authority that has issued it.
    pub(super) authority: String,
    /// As it is configured.
    pub(super) key_type: String,
    /// PEM text.
    pub(super) chain: String,
    pub(super) key: String,
}

/// What something is kept as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    /// Another directory, another external account, another ACME account.
    pub(super) fn account(authority: &AcmeAuthority) -> Key {
        let (directory, external) = authority.account();
        let mut hasher = Sha256::new();
        hasher.update(directory.len().to_be_bytes());
        hasher.update(directory);
        hasher.update(external.unwrap_or_default());
        let hash: String = hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Key(format!("accounts/{hash}.json"))
    }

    pub(super) fn certificate(name: &str) -> Key {
        Key(format!("certificates/{name}.json"))
    }

    /// `host` is a host name in lower case, so it is no path.
    pub(super) fn on_demand(name: &str, host: &str) -> Key {
        Key(format!("on-demand/{name}/{host}.json"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The disk, and what gateways share.
#[derive(Clone)]
pub(super) struct Storage {
    /// None where the platform has no folder for it: then nothing outlives the process.
    folder: Option<Arc<Path>>,
    shared: Option<Records>,
}

impl Storage {
    pub(super) fn new(folder: Option<Arc<Path>>, shared: Option<Records>) -> Self {
        Storage { folder, shared }
    }

    pub(super) fn shared(&self) -> Option<&Records> {
        self.shared.as_ref()
    }

    /// What is on disk. It blocks. What can't be read is said and counts as absent.
    pub(super) fn on_disk<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let path = self.folder.as_ref()?.join(key.as_str());
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what ACME has kept can't be read");
                return None;
            }
        };
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| tracing::warn!(file = %path.display(), %error, "what ACME has kept can't be used"))
            .ok()
    }

    /// The hosts of which certificates on demand are on disk, at most so many. It blocks.
    pub(super) fn hosts_on_disk(&self, name: &str, most: usize) -> Vec<String> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let Ok(entries) = fs::read_dir(folder.join("on-demand").join(name)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).take(most).collect()
    }

    /// What the shared state has, or the disk where there is none.
    pub(super) async fn load<T: DeserializeOwned + Send + 'static>(&self, key: &Key) -> Result<Option<T>, RecordError> {
        match &self.shared {
            Some(shared) => {
                let found = shared.get(key.as_str()).await?;
                Ok(found.and_then(|text| serde_json::from_slice(&text).ok()))
            }
            None => {
                let (storage, key) = (self.clone(), key.clone());
                Ok(tokio::task::spawn_blocking(move || storage.on_disk(&key)).await.ok().flatten())
            }
        }
    }

    /// Keeps it in both places. An error says which has failed; the other one has it.
    pub(super) async fn save(&self, key: &Key, value: &impl Serialize) -> Result<(), String> {
        let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        let shared = match &self.shared {
            Some(shared) => shared.set(key.as_str(), &text).await.map_err(|error| error.to_string()),
            None => Ok(()),
        };
        self.save_to_disk(key, text).await.and(shared)
    }

    /// The same for this gateway alone: of what another has told the state.
    pub(super) async fn save_here(&self, key: &Key, value: &impl Serialize) -> Result<(), String> {
        self.save_to_disk(key, serde_json::to_vec(value).map_err(|error| error.to_string())?).await
    }

    async fn save_to_disk(&self, key: &Key, text: Vec<u8>) -> Result<(), String> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(key.as_str());
        let written =
            tokio::task::spawn_blocking(move || durable::replace(&path, &text).map_err(|error| failed(&path, &error)));
        written.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Forgets it in both places.
    pub(super) async fn delete(&self, key: &Key) {
        if let Some(shared) = &self.shared {
            // It is of no use, and another gateway finds that, too.
            let _ = shared.delete(key.as_str()).await;
        }
        if let Some(folder) = &self.folder {
            let path = folder.join(key.as_str());
            let _ = tokio::task::spawn_blocking(move || fs::remove_file(path)).await;
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    if !data.is_file() || data.uid() != rustix::process::geteuid().as_raw() || data.mode() & OTHERS != 0 {
        return Err(io::Error::other("it is not a file of this user that nobody else may read or write"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(chain: &str) -> Record {
        let text = |text: &str| text.to_owned();
        Record {
            names: vec![text("a.test")],
            authority: text("https://ca"),
            key_type: text("ecdsa-p256"),
            chain: text(chain),
            key: text("key"),
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn what_is_kept_is_found_again_and_is_nobody_else_s() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        let key = Key::certificate("main");
        assert_eq!(storage.on_disk::<Record>(&key), None);
        run(storage.save(&key, &record("one"))).expect("saved");
        run(storage.save(&key, &record("two"))).expect("saved");
        assert_eq!(storage.on_disk(&key), Some(record("two")));
        assert_eq!(run(storage.load(&key)), Ok(Some(record("two"))));
        let file = folder.path().join("certificates/main.json");
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().expect("a folder")).expect("it").permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(folder.path().join("certificates")).expect("a folder").count(), 1, "nothing is left");
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        let key = Key::certificate("main");
        run(storage.save(&key, &record("one"))).expect("saved");
        // As on a full disk: the new file can't be made.
        let new = folder.path().join(format!("certificates/main.json.{}", std::process::id()));
        fs::create_dir(&new).expect("a folder in its place");
        let error = run(storage.save(&key, &record("two"))).expect_err("not saved");
        assert!(error.contains("certificates/main.json"), "{error}");
        assert_eq!(storage.on_disk(&key), Some(record("one")));
    }

    #[test]
    fn what_is_broken_counts_as_absent() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        fs::create_dir(folder.path().join("certificates")).expect("a folder");
        for broken in ["", "{", "{\"names\":[]}", "[]"] {
            durable::replace(&folder.path().join("certificates/main.json"), broken.as_bytes()).expect("a file");
            assert_eq!(storage.on_disk::<Record>(&Key::certificate("main")), None, "{broken}");
        }
    }

    #[test]
    fn what_others_may_read_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        let key = Key::certificate("main");
        run(storage.save(&key, &record("one"))).expect("saved");
        let file = folder.path().join("certificates/main.json");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
        assert_eq!(storage.on_disk::<Record>(&key), None);
    }

    #[test]
    fn hosts_on_demand_are_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        assert!(storage.hosts_on_disk("any", 10).is_empty());
        for host in ["a.test", "b.test"] {
            run(storage.save(&Key::on_demand("any", host), &record(host))).expect("saved");
        }
        let mut hosts = storage.hosts_on_disk("any", 10);
        hosts.sort();
        assert_eq!(hosts, ["a.test", "b.test"]);
        assert_eq!(storage.hosts_on_disk("any", 1).len(), 1);
    }
}
