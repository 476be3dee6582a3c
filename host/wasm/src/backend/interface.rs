//! The versions of the WIT package: which interfaces are ours, and what a component that was built for a later version lacks here.
//! `docs/src/internals/adr/0001-wit-growth.md` says how the package grows.

use semver::Version;

use crate::bindings::INTERFACE_VERSION;
use crate::filter::LoadError;

const PACKAGE: &str = "sluice:filter/";
/// All versions with this major and minor are compatible.
const SERIES: (u64, u64) = (0, 1);

/// `on-request` of `sluice:filter/on-request@0.1.3`; `None` for names of other packages.
pub(crate) fn our_interface(name: &str) -> Result<Option<&str>, LoadError> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(None) };
    match rest.split_once('@') {
        Some((interface, version)) if ours(version).is_some() => Ok(Some(interface)),
        _ => Err(LoadError::Version { interface: name.to_owned(), known: INTERFACE_VERSION }),
    }
}

/// The newest version of the package that these interfaces name: `0.1.3`. `None` where none is ours.
pub(crate) fn newest<'a>(interfaces: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let versions =
        interfaces.filter_map(|name| name.strip_prefix(PACKAGE)?.split_once('@').map(|(_, version)| version));
    versions.max_by_key(|version| ours(version))
}

/// A version of our series. A pre-release promises nothing (Semantic Versioning 2.0.0 §9), so it is none.
fn ours(version: &str) -> Option<Version> {
    let version = Version::parse(version).ok()?;
    (SERIES == (version.major, version.minor) && version.pre.is_empty()).then_some(version)
}

/// Whether this version is newer than the gateway's. What can't be read counts as the oldest.
fn is_newer(version: &str) -> bool {
    ours(version) > ours(INTERFACE_VERSION)
}

/// Whether an interface is of a later version than this gateway's.
pub(crate) fn is_later(name: &str) -> bool {
    name.split_once('@').is_some_and(|(_, version)| is_newer(version))
}

/// The error for a function that a component imports and this gateway lacks.
pub(crate) fn missing_function(interface: &str, function: &str) -> LoadError {
    let version = interface.split_once('@').map_or("", |(_, version)| version);
    let advice = if is_newer(version) {
        format!("use a release of Sluice that has sluice:filter@{version}, or build the plugin for an older interface")
    } else {
        "no version of this interface has it".to_owned()
    };
    LoadError::MissingFunction {
        interface: interface.to_owned(),
        function: function.to_owned(),
        known: INTERFACE_VERSION,
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_within_a_minor() {
        assert_eq!(our_interface("sluice:filter/on-request@0.1.7").unwrap(), Some("on-request"));
        assert_eq!(our_interface("wasi:io/poll@0.2.0").unwrap(), None);
        assert!(matches!(our_interface("sluice:filter/on-request@0.2.0"), Err(LoadError::Version { .. })));
        assert!(matches!(our_interface("sluice:filter/on-request@0.10.0"), Err(LoadError::Version { .. })));
        assert!(matches!(our_interface("sluice:filter/on-request@0.1.8-rc.1"), Err(LoadError::Version { .. })));
        assert!(matches!(our_interface("sluice:filter/on-request@0.1"), Err(LoadError::Version { .. })));
        assert!(matches!(our_interface("sluice:filter/on-request"), Err(LoadError::Version { .. })));
    }

    #[test]
    fn the_newest_version_is_what_a_component_needs() {
        let names = ["sluice:filter/log@0.1.2", "wasi:io/poll@0.2.9", "sluice:filter/on-request@0.1.10"];
        assert_eq!(newest(names.into_iter()), Some("0.1.10"));
        assert_eq!(newest(names[1..2].iter().copied()), None);
    }
}
