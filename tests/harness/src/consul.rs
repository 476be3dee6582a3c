//! A Consul that does what tests need: blocking queries for the instances of a service, nonsense, silence, an index that goes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::origin::{Origin, Reply, Request};

/// What is answered, and what was asked.
struct State {
    index: u64,
    answer: Answer,
    asked: Vec<Request>,
    stopped: bool,
}

/// What Consul answers.
#[derive(Clone)]
pub enum Answer {
    Instances(Vec<Instance>),
    /// A status and a text, and no index.
    Text(u16, &'static str),
    /// Takes the question and never answers.
    Hang,
}

/// The address of an instance (`host:port`), its weight and its meta.
pub type Instance = (String, u32, BTreeMap<String, String>);

/// A Consul that answers one question: who serves `orders`. It waits as the real one does.
pub struct Consul {
    /// Where it listens.
    pub origin: Origin,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Consul {
    /// One whose index is 7, with an instance for each origin.
    pub fn start(urls: &[&Origin]) -> Consul {
        Self::start_by(urls, |handler| Origin::serve(handler))
    }

    /// The same, served in another way.
    pub fn start_by(
        urls: &[&Origin],
        serve: impl FnOnce(Box<dyn Fn(&Request) -> Reply + Send + Sync>) -> Origin,
    ) -> Consul {
        let state = State { index: 7, answer: instances(urls), asked: Vec::new(), stopped: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let origin = serve(Box::new({
            let shared = shared.clone();
            move |request| answer(&shared, request)
        }));
        Consul { origin, shared }
    }

    /// Answers this from now on, also to who waits.
    pub fn say(&self, index: u64, answer: Answer) {
        let mut state = self.shared.0.lock().unwrap();
        (state.index, state.answer) = (index, answer);
        self.shared.1.notify_all();
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Request> {
        self.shared.0.lock().unwrap().asked.clone()
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.shared.0.lock().unwrap().stopped = true;
        self.shared.1.notify_all();
    }
}

/// An instance of weight 1 for each origin.
pub fn instances(origins: &[&Origin]) -> Answer {
    Answer::Instances(origins.iter().map(|origin| (origin.address().to_string(), 1, BTreeMap::new())).collect())
}

/// Waits as Consul does: until the index is another one, or for as long as it was told.
fn answer(shared: &(Mutex<State>, Condvar), request: &Request) -> Reply {
    let parameter = |name: &str| {
        let (_, query) = request.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let known: Option<u64> = parameter("index").and_then(|index| index.parse().ok());
    let wait = parameter("wait").and_then(|wait| wait.strip_suffix("ms")?.parse().ok()).map(Duration::from_millis);
    let mut state = shared.0.lock().unwrap();
    state.asked.push(request.clone());
    let waits =
        |state: &mut State| !state.stopped && (Some(state.index) == known || matches!(state.answer, Answer::Hang));
    let wait = wait.unwrap_or(Duration::from_secs(60));
    let state = shared.1.wait_timeout_while(state, wait, waits).unwrap().0;
    if state.stopped {
        return Reply::Close;
    }
    let body = match &state.answer {
        Answer::Hang => return Reply::Close,
        Answer::Text(status, text) => return Reply::Full(*status, Vec::new(), text.as_bytes().to_vec()),
        Answer::Instances(instances) => instances.iter().map(|(address, weight, meta)| {
            let (host, port) = address.rsplit_once(':').expect("a port");
            json!({
                "Node": { "Node": "n", "Address": host, "Datacenter": "dc1" },
                "Service": { "ID": address, "Service": "orders", "Address": "", "Port": port.parse::<u16>().unwrap(), "Meta": meta, "Weights": { "Passing": weight, "Warning": 1 } },
                "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }],
            })
        }),
    };
    Reply::json(&body.collect::<Value>()).with("x-consul-index", &state.index.to_string())
}
