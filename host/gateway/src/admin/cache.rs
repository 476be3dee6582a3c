//! `POST /api/v1/cache/purge`: takes stored responses away, or makes them stale.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_cache::store::{Purge, Strength};
use url::Url;

use super::endpoint::Call;
use super::problem::Problem;
use crate::cache::url_host;
use crate::http::path::normalise_path;
use crate::http::target::parse_authority;

/// What is asked for: one of `url`, `prefix`, `host`, `tag` and `everything`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedPurge {
    /// All responses of this URL, whatever else is in their keys. The scheme does not count.
    url: Option<String>,
    /// The responses of this URL's path and of all below it.
    prefix: Option<String>,
    /// The responses of this host, with its port unless that is the one of the scheme.
    host: Option<String>,
    /// The responses with this word in `Surrogate-Key` or `Cache-Tag`.
    tag: Option<String>,
    /// All responses.
    #[serde(default)]
    everything: bool,
    /// Whether they only become stale: they may be validated, and serve in place of errors.
    #[serde(default)]
    soft: bool,
}

/// What was done.
#[derive(Serialize, JsonSchema)]
pub(super) struct Purged {
    /// In the form in which responses are known.
    purged: String,
    soft: bool,
}

pub(super) async fn purge(call: Call, wanted: WantedPurge) -> Result<Purged, Problem> {
    let WantedPurge { url, prefix, host, tag, everything, soft } = wanted;
    let cache = &call.control.snapshot().cache;
    let strength = if soft { Strength::Soft } else { Strength::Hard };
    let purged = match (url, prefix, host, tag, everything) {
        (Some(url), None, None, None, false) => {
            let Located { host, path, query } = located("url", &url)?;
            cache.purge_url(&host, &path, query.as_deref(), strength);
            format!("url {host}{path}{}", query.map(|query| format!("?{query}")).unwrap_or_default())
        }
        (None, Some(prefix), None, None, false) => {
            let Located { host, path, .. } = located("prefix", &prefix)?;
            cache.purge(&Purge::Prefix { host: &host, path: &path }, strength);
            format!("prefix {host}{path}")
        }
        (None, None, Some(host), None, false) => {
            let host = parse_authority(host.as_bytes())
                .map_err(|_| Problem::unprocessable(format!("`host`: `{host}` is not a host")))?;
            cache.purge(&Purge::Host(host.as_str()), strength);
            format!("host {host}")
        }
        (None, None, None, Some(tag), false) if !tag.is_empty() => {
            cache.purge(&Purge::Tag(tag.as_bytes()), strength);
            format!("tag {tag}")
        }
        (None, None, None, None, true) => {
            cache.purge(&Purge::Everything, strength);
            "everything".to_owned()
        }
        _ => {
            let expected = "expected exactly one of `url`, `prefix`, `host`, `tag` and `everything`";
            return Err(Problem::unprocessable(expected));
        }
    };
    tracing::info!(client = %call.client, soft, "purged from the cache: {}", crate::services::log_limit::visible(&purged));
    Ok(Purged { purged, soft })
}

pub(super) struct Located {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

/// A URL in the form in which requests are known.
pub(super) fn located(key: &str, text: &str) -> Result<Located, Problem> {
    let wrong = || Problem::unprocessable(format!("`{key}`: `{text}` is not a URL like `https://example.com/a`"));
    let url = Url::parse(text).map_err(|_| wrong())?;
    let host = url_host(&url).ok_or_else(wrong)?;
    let path = normalise_path(url.path()).map_err(|_| wrong())?.into_owned();
    Ok(Located { host, path, query: url.query().map(str::to_owned) })
}
