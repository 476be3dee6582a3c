//! The table of failures: what a filter can do wrong × hook × reused or fresh × plain or waiting × open or closed. Each costs
//! its exchange at most, and the neighbours on the same worker a bounded time.

use std::time::Duration;

use serde_json::json;
use sluice_harness::load::Neighbour;
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::alone;
use crate::support::{BASE, filter, setup};

/// The hooks that an exchange with a body and trailers calls.
const HOOKS: [&str; 7] = [
    "on-request",
    "on-request-body",
    "select-upstream",
    "on-response",
    "on-response-body",
    "on-response-trailers",
    "on-complete",
];

/// The CPU deadline of a call, the default.
const DEADLINE: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(1);
/// What a busy machine adds to anything that is measured from outside: the gateway, its origin and three clients share as few as two
/// cores, and one turn of the scheduler can take some ten milliseconds.
const NOISE: Duration = Duration::from_millis(60);

/// One way to run a filter: a column of the table.
struct Column {
    name: String,
    waiting: bool,
    open: bool,
    lines: String,
}

fn columns(black_hole: &str) -> Vec<Column> {
    let mut columns = Vec::new();
    for mode in ["reused", "fresh"] {
        for (link, waiting) in [("plain", false), ("waiting", true)] {
            for (policy, open) in [("open", true), ("closed", false)] {
                columns.push(Column {
                    name: format!("{mode}-{link}-{policy}"),
                    waiting,
                    open,
                    lines: format!(
                        "on_error = \"{policy}\"\ninstances = {{ mode = \"{mode}\" }}\nlimits = {{ wall = \"150ms\" }}\ngrants = {{ http = [\"{black_hole}\"] }}"
                    ),
                });
            }
        }
    }
    columns
}

fn start(columns: &[Column], origin: &Origin) -> Gateway {
    let mut toml =
        format!("{BASE}[telemetry]\naccess_log = \"off\"\n[upstreams.origin]\nendpoints = [\"{}\"]\n", origin.url());
    toml += "[routes.neighbour]\nmatch = { path = \"/\" }\nupstream = \"origin\"\n";
    for column in columns {
        let name = &column.name;
        toml += &format!(
            "[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"origin\"\npipeline = [\"{name}\"]\n"
        );
        let plugin = if column.waiting { "probe-waiting" } else { "probe" };
        toml += &filter(name, plugin, &column.lines, json!({"obey": true}));
    }
    setup().start(&toml)
}

/// An exchange in which the filter of this column is told to do this at this hook; the status, or none when the answer broke off.
fn exchange(gateway: &Gateway, column: &Column, orders: &str) -> (Option<u16>, bool) {
    let mut client = gateway.client();
    let target = format!("/{}", column.name);
    let headers = [("x-probe", orders), ("te", "trailers")];
    let headers = if orders.is_empty() { &headers[1..] } else { &headers[..] };
    match client.try_request("POST", &target, headers, b"a body") {
        Ok(response) => {
            let whole = response.status != 200 || response.body == b"an answer";
            assert!(whole, "another answer: {response:?}");
            (Some(response.status), response.header("x-half").is_some())
        }
        Err(_) => (None, false),
    }
}

/// What is wrong with the answer to a failure, if anything is.
fn judge(hook: &str, column: &Column, status: Option<u16>) -> Option<String> {
    let well = match (hook, column.open) {
        // The exchange is over when it fails.
        ("on-complete", _) | (_, true) => status == Some(200),
        // The head is out: the end that is missing is all that can tell.
        ("on-response-trailers", false) => status.is_none(),
        (_, false) => status.is_some_and(|s| s >= 500),
    };
    (!well).then(|| format!("{status:?}"))
}

fn walk(kind: &str) {
    let _alone = alone();
    let origin = Origin::serve(|_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n9\r\nan answer\r\n0\r\nx-sum: 1\r\n\r\n"
                .to_vec(),
        )
    });
    let black_hole = Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()));
    let columns = columns(&black_hole.url());
    let gateway = start(&columns, &origin);
    let neighbour = Neighbour::start(gateway.address(), "/", TICK);
    let mut wrong = Vec::new();
    for hook in HOOKS {
        // A filter that imports nothing that waits has no outbound call.
        for column in columns.iter().filter(|c| kind != "call" || c.waiting) {
            let name = format!("{kind} at {hook}, {}", column.name);
            let order =
                if kind == "call" { format!("{hook}=call@{}/", black_hole.url()) } else { format!("{hook}={kind}") };
            let failures = || {
                gateway
                    .metric("sluice_filter_failures_total", &[("filter", &column.name), ("hook", hook)])
                    .unwrap_or(0.0)
            };
            let before = failures();
            let (status, half) = exchange(&gateway, column, &order);
            if let Some(what) = judge(hook, column, status) {
                wrong.push(format!("{name}: {what}"));
            }
            if half || origin.requests().iter().any(|r| r.header("x-half").is_some()) {
                wrong.push(format!("{name}: a half-made edit was seen"));
            }
            eventually(&format!("{name}: the failure in the metrics"), || failures() == before + 1.0);
            // The next exchange gets a good instance.
            let (status, _) = exchange(&gateway, column, "");
            if status != Some(200) {
                wrong.push(format!("{name}: the next exchange got {status:?}"));
            }
        }
    }
    let report = neighbour.stop();
    assert!(wrong.is_empty(), "{} of the table's cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(report.count(200), report.total(), "the neighbour: {:?}", report.statuses);
    let (p99, bound) = (report.quantile(0.99), DEADLINE + 2 * TICK + NOISE);
    assert!(p99 < bound, "the neighbour's p99 was {p99:?}, more than {bound:?}, over {} requests", report.total());
}

macro_rules! table {
    ($($kind:ident: $order:literal),* $(,)?) => {
        $(#[test]
        fn $kind() {
            walk($order);
        })*
    };
}

table! {
    a_trap: "trap",
    a_panic: "panic",
    a_spin: "spin",
    memory: "memory",
    a_nonsense_answer: "nonsense",
    a_call_that_never_returns: "call",
}
