//! Changes the weights of a route while the gateway runs: at once and for all workers, and in the configuration file if that is asked for.
//! What is not in the file is lost with the next reload, which goes by the file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::{Control, RunningState};
use crate::config::{self, EditError, KeyPart, model};
use crate::http::forwarded::ClientAddress;
use crate::snapshot::Snapshot;
use crate::snapshot::routes::Action;
use crate::snapshot::split::Split;

/// The largest weight that a file can have.
const MAX_WEIGHT: u32 = 1_000_000;

/// Weights by the name of the upstream.
pub type Weights = BTreeMap<String, u32>;

/// What a change of weights did.
#[derive(Debug)]
pub struct WeightsChange {
    pub before: Weights,
    pub after: Weights,
    /// The file that has the new weights, if they were saved.
    pub saved: Option<PathBuf>,
}

/// Why weights were not changed. Nothing has changed then, neither here nor in the file.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("there is no route `{0}`")]
    UnknownRoute(String),
    #[error("the route `{0}` does not share its requests out: it has no table `upstreams`")]
    NoSplit(String),
    #[error("expected a weight for each upstream of the route and for no other: {}", .0.join(", "))]
    OtherUpstreams(Vec<String>),
    #[error("at least one upstream needs a weight above 0")]
    AllZero,
    #[error("the weight of `{0}` is above {MAX_WEIGHT}")]
    TooLarge(String),
    #[error("the configuration was changed since it was loaded; reload it first, then save again")]
    FileChanged,
    #[error("the weights can't be saved")]
    Edit(#[from] EditError),
    #[error("`{0}` can't be written")]
    Write(PathBuf, #[source] io::Error),
}

impl Control {
    /// Changes the weights of a route. `file` is the configuration file if they are to be saved, `by` who asks for it. Reads and writes
    /// files, so it may block.
    pub fn set_weights(
        &self,
        route: &str,
        weights: Weights,
        file: Option<&Path>,
        by: ClientAddress,
    ) -> Result<WeightsChange, WeightsError> {
        let _one = self.running.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.snapshot();
        let split = split(&snapshot, route)?;
        let before = split.weights();
        let in_order = check(&before, &weights)?;
        let saved = file.map(|file| self.save(file, route, &weights)).transpose()?;
        split.set_weights(in_order);
        let before: Weights = before.into_iter().map(|(name, weight)| (name.to_string(), weight)).collect();
        tracing::info!(route, before = shown(&before), after = shown(&weights), saved = saved.is_some(), by = %by, "weights changed");
        Ok(WeightsChange { before, after: weights, saved })
    }

    /// Writes weights into the file that has the route, and leaves all else in it as it is.
    fn save(&self, path: &Path, route: &str, weights: &Weights) -> Result<PathBuf, WeightsError> {
        let running = self.config();
        // What else is in the file would take effect with the next reload, and nobody has asked for that here.
        let loaded = config::load(path).map_err(|_| WeightsError::FileChanged)?;
        if loaded.config.revision != running.revision {
            return Err(WeightsError::FileChanged);
        }
        let key = |upstream: &str| ["routes", route, "upstreams", upstream].map(KeyPart::from).to_vec();
        let edits: Vec<_> = weights.iter().map(|(upstream, weight)| (key(upstream), *weight)).collect();
        let (file, text) = loaded.with_integers(&edits)?;
        replace_file(&file, &text).map_err(|error| WeightsError::Write(file.clone(), error))?;
        // The file is the running configuration again, with these weights.
        if let Ok(loaded) = config::load(path) {
            self.running.config.store(Arc::new(loaded.config));
        }
        Ok(file)
    }
}

fn split<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s Split, WeightsError> {
    let route = snapshot.routes.iter().find(|route| *route.facts.name == *name);
    match route.map(|route| &route.action) {
        None => Err(WeightsError::UnknownRoute(name.to_owned())),
        Some(Action::Forward(split)) if split.targets.len() > 1 => Ok(split),
        Some(Action::Forward(_) | Action::Redirect { .. } | Action::Respond { .. }) => {
            Err(WeightsError::NoSplit(name.to_owned()))
        }
    }
}

/// The weights in the order of the split.
fn check(known: &[(Arc<str>, u32)], weights: &Weights) -> Result<Vec<u32>, WeightsError> {
    let in_order: Option<Vec<u32>> = known.iter().map(|(name, _)| weights.get(&**name).copied()).collect();
    let Some(in_order) = in_order.filter(|all| all.len() == weights.len()) else {
        return Err(WeightsError::OtherUpstreams(known.iter().map(|(name, _)| format!("`{name}`")).collect()));
    };
    if let Some((name, _)) = weights.iter().find(|(_, weight)| **weight > MAX_WEIGHT) {
        return Err(WeightsError::TooLarge(name.clone()));
    }
    if in_order.iter().all(|weight| *weight == 0) {
        return Err(WeightsError::AllZero);
    }
    Ok(in_order)
}

/// Says which weights a reload is about to end, since they were changed here and not saved.
pub(super) fn tell_what_ended(running: &RunningState, now: &Snapshot) {
    let (config, snapshot) = (running.config.load(), running.snapshot.load());
    for route in &snapshot.routes {
        let Action::Forward(split) = &route.action else { continue };
        let Ok(new) = self::split(now, &route.facts.name) else { continue };
        let written = config.routes.iter().find(|written| *written.name == *route.facts.name);
        let Some(model::Action::Forward(written)) = written.map(|written| &written.action) else { continue };
        if split.differs_from(written) && split.weights() != new.weights() {
            let of = |split: &Split| shown(&split.weights().iter().map(|(n, w)| (n.to_string(), *w)).collect());
            let (route, before, after) = (&*route.facts.name, of(split), of(new));
            tracing::info!(route, before, after, "weights of the file hold again");
        }
    }
}

fn shown(weights: &Weights) -> String {
    weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>().join(" ")
}

/// Puts a text in the place of a file, whole or not at all. What leads to the file, such as a link, stays, and so do its owner, group and mode.
fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    // A process of the same id may have left it.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = write_new(&beside, text, &path).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        // What is left of it is of no use; the error says more than this one would.
        let _ = fs::remove_file(&beside);
        return written;
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write_new(beside: &Path, text: &str, like: &Path) -> io::Result<()> {
    // Not through a link, which would lead to another file. Nobody else reads it before its rights are set.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    let (own, like) = (file.metadata()?, fs::metadata(like)?);
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        let kept = fchown(&file, Some(like.uid()), Some(like.gid()));
        kept.map_err(|error| io::Error::new(error.kind(), format!("its owner can't be kept: {error}")))?;
    }
    file.set_permissions(like.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_file_keeps_what_it_has_but_its_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, link, other] = ["gateway.toml", "link", "other"].map(|name| folder.path().join(name));
        fs::write(&file, "old").expect("a file");
        symlink(&file, &link).expect("a link");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("a mode");
        // Only root can give a file away.
        let given = chown(&file, Some(7), Some(8)).is_ok();
        let before = fs::metadata(&file).expect("a file");
        // A link where the new text is written first leads nowhere.
        fs::write(&other, "precious").expect("a file");
        symlink(&other, folder.path().join(format!("gateway.toml.{}.new", std::process::id()))).expect("a link");

        replace_file(&link, "new").expect("written");
        assert_eq!(["new", "precious"], [&file, &other].map(|path| fs::read_to_string(path).expect("a text")));
        let after = fs::metadata(&file).expect("a file");
        let of = |data: &fs::Metadata| (data.uid(), data.gid(), data.mode() & 0o777);
        assert_eq!((of(&after), given), (of(&before), after.uid() == 7));
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3, "nothing is left");
    }
}
