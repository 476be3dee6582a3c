//! Reads the endpoints of an upstream.

use url::Url;

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{Endpoint, EndpointAddress, HTTPS_UNIX, UNIX, UnixName};
use crate::services::Origin;

/// Reads `http://host:port` or `https://host:port`, without more.
pub(in crate::config) fn origin(item: Item<'_>) -> Option<Origin> {
    item.check(r#"an origin like "http://host:port""#, |text| {
        let wrong = || format!("expected an origin like \"http://host:port\", found {text:?}");
        let url = Url::parse(text).map_err(|_| wrong())?;
        let origin = Origin::of(&url).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if bare && origin.port != 0 { Ok(origin) } else { Err(wrong()) }
    })
}

/// The same, or `unix:` or `https://unix:` and a path.
pub(in crate::config) fn address(item: Item<'_>) -> Option<EndpointAddress> {
    let text = item.as_str().unwrap_or_default();
    let (https, name) = match (text.strip_prefix(UNIX), text.strip_prefix(HTTPS_UNIX)) {
        (Some(name), _) => (false, name),
        (None, Some(name)) => (true, name),
        (None, None) => return origin(item).map(EndpointAddress::Origin),
    };
    match UnixName::to_connect(name) {
        Ok(name) => Some(EndpointAddress::Unix { https, name }),
        Err(expected) => {
            item.fail(format!("{expected}, found {text:?}"));
            None
        }
    }
}

pub(super) fn read(item: Item<'_>) -> Option<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let list = item.clone().taking("a list of origins or tables");
    for item in item.items() {
        let Some(endpoint) = endpoint(&item) else { continue };
        if endpoints.iter().any(|other| other.authority() == endpoint.authority()) {
            item.fail(format!("the endpoint {} is listed twice", endpoint.authority()));
        }
        endpoints.push(endpoint);
    }
    if list.is_empty_list() {
        list.fail("expected at least one endpoint");
    } else if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        list.fail("at least one endpoint needs a weight above 0");
    }
    Some(endpoints)
}

fn endpoint(item: &Item<'_>) -> Option<Endpoint> {
    if !item.is_table() {
        return Some(Endpoint::new(address(item.clone())?));
    }
    let table = item.clone().table()?;
    let url = table.key("url", "The address.", r#""https://orders.internal""#).require(address);
    let weight = table
        .key("weight", "Its share of the requests. One of 0 gets requests of its sticky sessions, and others only if no endpoint with weight is available.", "2")
        .or(defaults::ENDPOINT_WEIGHT, |item| item.integer(0..=1_000_000));
    let labels = table.table("labels").named("A label that filters can choose by.", r#""eu-west""#).into_iter();
    let mut labels: Vec<_> = labels.filter_map(|(name, item)| Some((name, item.string()?))).collect();
    // Their order means nothing, so that another one is no other endpoint.
    labels.sort();
    let priority = table
        .key(
            "priority",
            "Endpoints of priority 0 are used first. Those of the next one get the share that too few of them are available for.",
            "1",
        )
        .or(defaults::ENDPOINT_PRIORITY, |item| item.integer(0..=127));
    Some(Endpoint { weight, labels, priority, ..Endpoint::new(url?) })
}
