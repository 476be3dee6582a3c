//! Reads `[state]`, the services that gateways share their limits and values in, and which of them a plugin uses.

use std::collections::BTreeSet;
use std::time::Duration;

use super::defaults;
use super::item::Item;
use super::key::Words;
use super::model::{PluginState, Secret};
use super::read::Table;
use super::upstreams::identity;
use crate::services::state::{Away, Identity, Limits, Login, ServerAddress, StoreSpec, TlsFiles, Topology, Values};

/// More than any call may wait.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn state(name: &str, table: &Table<'_>) -> Option<StoreSpec> {
    let servers = table
        .key(
            "redis",
            "The server (`mode = \"single\"`), the Sentinels, or some nodes of the cluster: `redis://HOST:PORT`, `rediss://` for TLS, or `unix:/PATH`.",
            r#"["redis://10.0.0.5:6379"]"#,
        )
        .require(|item| {
            let address = |item: Item<'_>| item.check("an address of a server", str::parse::<ServerAddress>);
            let servers = item.clone().filled(address);
            if servers.as_ref().is_some_and(|servers| servers.windows(2).any(|pair| is_tls(&pair[0]) != is_tls(&pair[1]))) {
                item.fail("some of them have TLS and others do not");
            }
            servers
        });
    let mode = table
        .key("mode", "What the addresses are: one server, Sentinels, or nodes of a cluster.", r#""cluster""#)
        .word_or(defaults::STATE_MODE);
    let master = table
        .key("master", "The name by which the Sentinels know the master.", r#""limits""#)
        .get("none; needed with `mode = \"sentinel\"`", Item::string);
    let login = login(table);
    let sentinel_login = login_of_sentinels(table);
    let database = table
        .key("database", "The number of the database; a cluster has one only.", "1")
        .or(defaults::STATE_DATABASE, |item| item.integer(0..=1_000_000));
    let tls = table.table("tls");
    let files = tls_files(&tls);
    let timeout = table
        .key(
            "timeout",
            "How long a call waits for an answer before `on_unavailable` holds. At most a quarter of `limits.wall` of the filters.",
            r#""20ms""#,
        )
        .or(defaults::STATE_TIMEOUT, |item| item.duration_up_to(LONGEST_TIMEOUT));
    let connect_timeout = table
        .key("connect_timeout", "How long it may take to connect, log in and get a first answer.", r#""1s""#)
        .or(defaults::STATE_CONNECT_TIMEOUT, |item| item.duration_up_to(LONGEST_TIMEOUT));
    let max_waiting = table
        .key("max_waiting", "Calls of a worker that may wait at a time; for more, `on_unavailable` holds. It has to be below `instances.max` of the filters.", "32")
        .or(defaults::STATE_MAX_WAITING, |item| item.integer(1..=1_000_000));
    let away = table
        .key(
            "on_unavailable",
            "What becomes of calls while there is no answer: each gateway counts and keeps for itself (`local`), limits allow and nothing is kept (`open`), or calls fail (`closed`).",
            r#""closed""#,
        )
        .word_or(defaults::STATE_ON_UNAVAILABLE);
    let prefix = table
        .key("prefix", "What all keys begin with: gateways with the same share their limits and values.", r#""edge:""#)
        .or(defaults::STATE_PREFIX.to_owned(), |item| {
            item.parse("up to 64 of the characters A-Z a-z 0-9 . _ : -", prefix)
        });
    let topology = match (mode, master) {
        (Mode::Single, None) => Topology::Single,
        (Mode::Cluster, None) => Topology::Cluster,
        (Mode::Sentinel, Some(master)) => Topology::Sentinel { master: master.into() },
        (Mode::Sentinel, None) => {
            table.fail("`mode = \"sentinel\"` needs the name of the `master`");
            return None;
        }
        (Mode::Single | Mode::Cluster, Some(_)) => {
            table.fail("`master` goes with `mode = \"sentinel\"`");
            return None;
        }
    };
    let servers = servers?;
    if mode == Mode::Single && servers.len() > 1 {
        table.fail("a single server has one address; `mode` says what several are: \"sentinel\" or \"cluster\"");
    }
    if mode == Mode::Cluster && database != 0 {
        table.fail("a cluster has no `database` but 0");
    }
    if mode != Mode::Single && servers.iter().any(|server| matches!(server, ServerAddress::Unix(_))) {
        table.fail("a Unix socket is for `mode = \"single\"`");
    }
    if table.has("tls") && !servers.iter().any(is_tls) {
        tls.fail("`tls` is for servers of the form \"rediss://HOST:PORT\"");
    }
    Some(StoreSpec {
        name: name.into(),
        servers,
        topology,
        login,
        sentinel_login,
        database,
        tls: files,
        timeout,
        connect_timeout,
        max_waiting,
        away,
        prefix: prefix.into(),
    })
}

/// What the addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Single,
    Sentinel,
    Cluster,
}

impl Words for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("single", Self::Single), ("sentinel", Self::Sentinel), ("cluster", Self::Cluster)];
}

impl Words for Away {
    const WORDS: &'static [(&'static str, Self)] =
        &[("local", Self::Local), ("open", Self::Open), ("closed", Self::Closed)];
}

/// How limits are decided, without what a lease has beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsWord {
    Exact,
    Leased,
    Local,
}

impl Words for LimitsWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("exact", Self::Exact), ("leased", Self::Leased), ("local", Self::Local)];
}

impl Words for Values {
    const WORDS: &'static [(&'static str, Self)] = &[("shared", Self::Shared), ("local", Self::Local)];
}

fn login(table: &Table<'_>) -> Login {
    let username = table
        .key("username", "The user of its access control list (ACL).", r#""gateway""#)
        .get("the default user", Item::string);
    let password = table.key("password", "The password.", r#""${env:REDIS_PASSWORD}""#).get("none", Item::secret);
    pair(table, username, password)
}

fn login_of_sentinels(table: &Table<'_>) -> Login {
    let username = table
        .key("sentinel_username", "The user at the Sentinels.", r#""gateway""#)
        .get("the default user", Item::string);
    let password = table
        .key("sentinel_password", "The password at the Sentinels.", r#""${env:SENTINEL_PASSWORD}""#)
        .get("none", Item::secret);
    pair(table, username, password)
}

fn pair(table: &Table<'_>, username: Option<String>, password: Option<Secret>) -> Login {
    if username.is_some() && password.is_none() {
        table.fail("a user name goes with a password");
    }
    Login { username: username.map(Into::into), password: password.map(|password| password.expose().into()) }
}

fn tls_files(table: &Table<'_>) -> TlsFiles {
    let authorities = table
        .key("ca", "The authorities to trust in place of the system's.", r#""certs/ca.pem""#)
        .get("the system's authorities", |item| item.pem("CERTIFICATE"));
    let bytes = |text: String| text.into_bytes().into_boxed_slice();
    let identity = identity(table).map(|(cert, key)| Identity { certificate: bytes(cert), key: bytes(key) });
    TlsFiles { authorities: authorities.map(bytes), identity }
}

fn is_tls(server: &ServerAddress) -> bool {
    matches!(server, ServerAddress::Tcp { tls: true, .. })
}

/// A brace would begin a hash tag, which a plugin's name has to be.
fn prefix(text: &str) -> Option<String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (text.len() <= 64 && text.bytes().all(is_fit)).then(|| text.to_owned())
}

/// Which state a plugin uses, and how.
pub(super) fn of_plugin(table: &Table<'_>, known: &BTreeSet<String>) -> Option<PluginState> {
    let key = table.key(
        "state",
        "The name of the `[state.NAME]` that its limits and values are in, or a table.",
        r#""shared""#,
    );
    key.get("the memory of each gateway", |item| {
        let item = item.taking("a name or a table");
        if !item.is_table() {
            let name = item.reference("state", known)?;
            return Some(PluginState { name, limits: Limits::Exact, values: defaults::STATE_VALUES });
        }
        let table = item.table()?;
        let name = table
            .key("name", "The name of the `[state.NAME]`.", r#""shared""#)
            .require(|item| item.reference("state", known));
        let limits = table
            .key(
                "limits",
                "How limits are decided: in the state at each call (`exact`), here, and told behind the request (`leased`), or by each gateway for itself (`local`).",
                r#""leased""#,
            )
            .word_or(defaults::STATE_LIMITS);
        let most = table
            .key(
                "lease",
                "What a gateway lets through of each leased limit before the state knows of it. All gateways together exceed a limit by at most as much each.",
                "1000",
            )
            .or(defaults::STATE_LEASE, |item| item.integer(1..=u32::MAX).map(u64::from));
        let values = table
            .key("values", "Where key-value spaces are: in the state (`shared`), or in each gateway (`local`).", r#""local""#)
            .word_or(defaults::STATE_VALUES);
        if table.has("lease") && limits != LimitsWord::Leased {
            table.fail("`lease` goes with `limits = \"leased\"`");
        }
        let limits = match limits {
            LimitsWord::Exact => Limits::Exact,
            LimitsWord::Leased => Limits::Leased { most },
            LimitsWord::Local => Limits::Local,
        };
        Some(PluginState { name: name?, limits, values })
    })
}
