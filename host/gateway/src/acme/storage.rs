//! Where accounts and certificates are kept: in files that only this user can read, and, where gateways share a state, in that as well. What is on disk
//! is always whole: a file is written beside the old one and renamed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::certs::Validity;
use crate::config::model::AcmeAuthority;
use crate::durable;
use crate::services::state::{RecordError, Records};

/// More than any chain with its key.
const MAX_FILE: u64 = 1 << 20;
/// The bits of a mode that let all users do anything, and those of a group.
const OTHERS: u32 = 0o007;
const GROUP: u32 = 0o070;
/// How long a certificate is kept that has expired: a clock that is wrong for a while takes none away. In seconds.
const KEPT_EXPIRED: i64 = 30 * 24 * 3600;
/// The longest name of a host that is a name of a file as it is: file systems take 255 bytes, and a new file beside it has a longer one.
const LONGEST_NAME: usize = 200;
/// What the file of a longer one begins with; no host does.
const HASHED: char = '~';

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

impl Record {
    /// From when to when the certificate itself is valid.
    pub(super) fn validity(&self) -> Option<Validity> {
        Validity::of_leaf(&self.chain)
    }

    pub(super) fn has_expired(&self, now: i64) -> bool {
        self.validity().is_some_and(|validity| validity.not_after <= now)
    }

    /// Whether it takes the place of another one for the same names: a later one does. Of two that began together, all gateways take the one that they share,
    /// but not before this gateway's has been there.
    pub(super) fn comes_after(&self, own: &Record, own_was_shared: bool) -> bool {
        let began = |record: &Record| record.validity().map(|validity| validity.not_before);
        began(self) > began(own) || (own_was_shared && began(self) == began(own))
    }

    /// How long it is kept from now on, unless there is another one: until a while after its end.
    pub(super) fn life(&self, now: i64) -> Duration {
        let left = self.validity().map_or(0, |validity| validity.not_after.saturating_sub(now));
        Duration::from_secs(u64::try_from(left.saturating_add(KEPT_EXPIRED)).unwrap_or_default())
    }
}

/// What something is kept as.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    file: String,
    shared: String,
}

impl Key {
    /// Another directory, another external account, another ACME account.
    pub(super) fn account(authority: &AcmeAuthority) -> Key {
        let (directory, external) = authority.account();
        let name = format!("accounts/{}.json", hash([directory, external.unwrap_or_default()]));
        Key { file: name.clone(), shared: name }
    }

    /// In a state, gateways whose configurations differ, as while a change of it is rolled out, do not meet: each takes what it would order
    /// (`variant`). On disk, a certificate that was ordered for other names is shown until there is another one.
    pub(super) fn certificate(name: &str, variant: &str) -> Key {
        Key { file: format!("certificates/{name}.json"), shared: format!("certificates/{name}/{variant}") }
    }

    /// `host` is a host name in lower case, so it is no path.
    pub(super) fn on_demand(name: &str, host: &str, variant: &str) -> Key {
        let file = match host.len() > LONGEST_NAME {
            true => format!("{HASHED}{}", hash([host])),
            false => host.to_owned(),
        };
        Key { file: format!("on-demand/{name}/{file}.json"), shared: format!("on-demand/{name}/{host}/{variant}") }
    }

    /// In a state.
    pub(super) fn shared(&self) -> &str {
        &self.shared
    }
}

/// A text that is another one for other parts.
pub(super) fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
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
        let path = self.folder.as_ref()?.join(&key.file);
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
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter_map(|path| host_of(&path)).take(most).collect()
    }

    /// What the shared state has, or the disk where there is none.
    pub(super) async fn load<T: DeserializeOwned + Send + 'static>(&self, key: &Key) -> Result<Option<T>, RecordError> {
        match &self.shared {
            Some(shared) => {
                let found = shared.get(&key.shared).await?;
                Ok(found.and_then(|text| serde_json::from_slice(&text).ok()))
            }
            None => {
                let (storage, key) = (self.clone(), key.clone());
                Ok(tokio::task::spawn_blocking(move || storage.on_disk(&key)).await.ok().flatten())
            }
        }
    }

    /// Keeps it in both places, in the state for so long. An error says which has failed; the other one has it.
    pub(super) async fn save(&self, key: &Key, value: &impl Serialize, life: Option<Duration>) -> Result<(), String> {
        let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        let shared = match &self.shared {
            Some(shared) => shared.set(&key.shared, &text, life).await.map_err(|error| error.to_string()),
            None => Ok(()),
        };
        self.save_to_disk(key, text).await.and(shared)
    }

    /// Keeps it in the state alone, for so long, where there is none. Answers whether there was none.
    pub(super) async fn add_shared(
        &self,
        key: &Key,
        value: &impl Serialize,
        life: Duration,
    ) -> Result<bool, RecordError> {
        let (Some(shared), Ok(text)) = (&self.shared, serde_json::to_vec(value)) else { return Ok(false) };
        shared.add(&key.shared, &text, life).await
    }

    /// Keeps it on this disk alone: what another gateway has told the state.
    pub(super) async fn save_here(&self, key: &Key, value: &impl Serialize) -> Result<(), String> {
        self.save_to_disk(key, serde_json::to_vec(value).map_err(|error| error.to_string())?).await
    }

    async fn save_to_disk(&self, key: &Key, text: Vec<u8>) -> Result<(), String> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(&key.file);
        let written =
            tokio::task::spawn_blocking(move || durable::replace(&path, &text).map_err(|error| failed(&path, &error)));
        written.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Forgets it in both places.
    pub(super) async fn delete(&self, key: &Key) {
        if let Some(shared) = &self.shared {
            // It is of no use, and another gateway finds that, too.
            let _ = shared.delete(&key.shared).await;
        }
        if let Some(folder) = &self.folder {
            let path = folder.join(&key.file);
            let _ = tokio::task::spawn_blocking(move || fs::remove_file(path)).await;
        }
    }
}

/// The host that the file of a certificate on demand is for.
fn host_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    if !name.starts_with(HASHED) {
        return Some(name.to_owned());
    }
    serde_json::from_slice::<Record>(&read(path).ok()?).ok()?.names.into_iter().next()
}

/// Removes from a folder what nobody needs any more: files that a killed process was writing, and certificates that expired long ago, as of names that have
/// left the configuration. It blocks.
pub(super) fn clean(folder: &Path, now: i64) {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        entries.collect()
    };
    durable::remove_leftovers(&folder.join("accounts"));
    for folder in folders(&folder.join("on-demand")).into_iter().chain([folder.join("certificates")]) {
        durable::remove_leftovers(&folder);
        for path in folders(&folder) {
            let record = read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            if record.is_some_and(|record| record.life(now).is_zero()) {
                let _ = fs::remove_file(&path);
            }
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
        return Err(io::Error::other("it is not a file of this user that other users may not read or write"));
    }
    if data.mode() & GROUP != 0 {
        close_to_group(&file, path);
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Kubernetes gives files of a volume to the group of `fsGroup` each time it mounts it. A certificate that is ordered anew for that would be one at each
/// start, and authorities count them.
fn close_to_group(file: &File, path: &Path) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let closed = file.set_permissions(Permissions::from_mode(0o600));
    if !SAID.swap(true, Ordering::Relaxed) {
        let error = closed.err().map(|error| error.to_string());
        tracing::warn!(file = %path.display(), error, "the group could use what ACME has kept, as with `fsGroup` of Kubernetes; its rights to these files are taken away");
    }
}

#[cfg(test)]
mod tests {
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
        let key = Key::certificate("main", "any");
        assert_eq!(storage.on_disk::<Record>(&key), None);
        run(storage.save(&key, &record("one"), None)).expect("saved");
        run(storage.save(&key, &record("two"), None)).expect("saved");
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
        let key = Key::certificate("main", "any");
        run(storage.save(&key, &record("one"), None)).expect("saved");
        // As on a full disk: the new file can't be made, since its name is too long.
        let long = Key { file: format!("certificates/{}", "a".repeat(255)), ..key.clone() };
        fs::rename(folder.path().join(&key.file), folder.path().join(&long.file)).expect("a file");
        let error = run(storage.save(&long, &record("two"), None)).expect_err("not saved");
        assert!(error.contains("certificates/aaa"), "{error}");
        assert_eq!(storage.on_disk(&long), Some(record("one")));
    }

    #[test]
    fn what_is_broken_counts_as_absent() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        fs::create_dir(folder.path().join("certificates")).expect("a folder");
        for broken in ["", "{", "{\"names\":[]}", "[]"] {
            durable::replace(&folder.path().join("certificates/main.json"), broken.as_bytes()).expect("a file");
            assert_eq!(storage.on_disk::<Record>(&Key::certificate("main", "any")), None, "{broken}");
        }
    }

    #[test]
    fn what_others_may_read_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        let key = Key::certificate("main", "any");
        run(storage.save(&key, &record("one"), None)).expect("saved");
        let file = folder.path().join("certificates/main.json");
        for mode in [0o604, 0o602, 0o666] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(storage.on_disk::<Record>(&key), None, "{mode:o}");
        }
        // As Kubernetes leaves it.
        fs::set_permissions(&file, Permissions::from_mode(0o660)).expect("a mode");
        assert_eq!(storage.on_disk(&key), Some(record("one")));
        assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    }

    /// One that is valid from the beginning of that year to that day.
    fn valid(from: i32, to: jiff::Timestamp) -> Record {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        let date = to.to_zoned(jiff::tz::TimeZone::UTC).date();
        let [month, day] = [date.month(), date.day()].map(|part| u8::try_from(part).expect("small"));
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(date.year().into(), month, day);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
        record(&certificate.pem())
    }

    #[test]
    fn a_certificate_is_replaced_by_a_later_one_only() {
        let now = jiff::Timestamp::now();
        let [early, late, other] = [2000, 2001, 2001].map(|year| valid(year, now));
        assert!(late.comes_after(&early, true) && late.comes_after(&early, false));
        assert!(!early.comes_after(&late, true) && !early.comes_after(&late, false));
        assert!(other.comes_after(&late, true), "all use the same");
        assert!(!other.comes_after(&late, false), "this one was not told to the others yet");
    }

    #[test]
    fn what_expired_long_ago_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        let now = jiff::Timestamp::now();
        let days = |days: i64| valid(2000, now + jiff::SignedDuration::from_hours(24 * days));
        let keys = [Key::certificate("gone", "v"), Key::on_demand("any", "gone.test", "v")];
        let kept = [Key::certificate("main", "v"), Key::on_demand("any", "a.test", "v"), Key::certificate("late", "v")];
        for (key, record) in
            keys.iter().map(|key| (key, days(-32))).chain(kept.iter().zip([days(9), days(9), days(-9)]))
        {
            run(storage.save(key, &record, Some(record.life(now.as_second())))).expect("saved");
        }
        clean(folder.path(), now.as_second());
        assert!(keys.iter().all(|key| storage.on_disk::<Record>(key).is_none()));
        assert!(kept.iter().all(|key| storage.on_disk::<Record>(key).is_some()));
        assert!(days(-2).has_expired(now.as_second()) && !days(2).has_expired(now.as_second()));
    }

    #[test]
    fn hosts_on_demand_are_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::new(Some(folder.path().into()), None);
        assert!(storage.hosts_on_disk("any", 10).is_empty());
        for host in ["a.test", "b.test"] {
            run(storage.save(&Key::on_demand("any", host, "any"), &record(host), None)).expect("saved");
        }
        let mut hosts = storage.hosts_on_disk("any", 10);
        hosts.sort();
        assert_eq!(hosts, ["a.test", "b.test"]);
        assert_eq!(storage.hosts_on_disk("any", 1).len(), 1);
        // As long as a host name may be.
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        let named = Record { names: vec![long.clone()], ..record("long") };
        run(storage.save(&Key::on_demand("long", &long, "any"), &named, None)).expect("saved");
        assert_eq!(storage.hosts_on_disk("long", 10), [long]);
    }
}
