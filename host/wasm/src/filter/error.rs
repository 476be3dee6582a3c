//! Why a call gave no verdict, and why a plugin was not loaded.

use std::time::Duration;

/// Why a call of a filter gave no verdict. The failure policy of the filter decides what becomes of the exchange.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FilterError {
    /// The guest trapped or panicked; with what it last wrote to standard error.
    #[error("trapped: {0}")]
    Trap(String),
    #[error("used more than its {:?} of CPU time (`limits.cpu`, `limits.cpu_per_mib`)", rounded(*.0))]
    Deadline(Duration),
    /// The call took longer than its wall deadline, with its waits for host calls.
    #[error("took longer than {0:?}")]
    Timeout(Duration),
    /// The guest failed after it was refused more memory.
    #[error("needed more than its {0} bytes of memory")]
    Memory(usize),
    /// The guest failed after it was refused a larger table.
    #[error("needed more than its {0} table elements")]
    Table(usize),
    /// The guest failed after the host had no memory left to keep what it asked for.
    #[error("failed because all memory that the gateway keeps for filters is in use{}", told(.declared))]
    OutOfMemory {
        /// What it said by `log.fail`; `None` where it trapped.
        declared: Option<String>,
    },
    /// The filter called `log.fail`.
    #[error("failed: {0}")]
    Declared(String),
    /// All instances are in use and the queue is full.
    #[error("all {instances} instances are in use and {queue} calls are waiting")]
    Busy { instances: usize, queue: usize },
    /// The call waited for as long as it may take: for an instance, or for its turn with a body.
    #[error("waited {0:?} for its turn: other calls are in work")]
    NoTurn(Duration),
    /// `configure` refused the config on a new instance, though it took it at load.
    #[error("refused its config: {}", of_the_whole(.0))]
    Refused(String),
    #[error("could not be instantiated: {0}")]
    Instantiate(String),
    /// The answer of the hook was not one the interface allows.
    #[error("gave a bad answer: {0}")]
    BadAnswer(String),
}

/// To a tenth of a millisecond.
fn rounded(time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX) / 100 * 100)
}

impl FilterError {
    /// A short stable word for metrics and logs.
    pub fn kind(&self) -> FailureKind {
        match self {
            FilterError::Trap(_) => FailureKind::Trap,
            FilterError::Deadline(_) => FailureKind::Deadline,
            FilterError::Timeout(_) => FailureKind::Timeout,
            FilterError::Memory(_) | FilterError::Table(_) => FailureKind::Memory,
            FilterError::OutOfMemory { .. } => FailureKind::OutOfMemory,
            FilterError::Declared(_) => FailureKind::Declared,
            FilterError::Busy { .. } | FilterError::NoTurn(_) => FailureKind::Busy,
            FilterError::Refused(_) => FailureKind::Refused,
            FilterError::Instantiate(_) => FailureKind::Instantiate,
            FilterError::BadAnswer(_) => FailureKind::BadAnswer,
        }
    }
}

fn told(declared: &Option<String>) -> String {
    declared.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

/// The kinds of [`FilterError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    Trap,
    Deadline,
    Timeout,
    Memory,
    OutOfMemory,
    Declared,
    Busy,
    Refused,
    Instantiate,
    BadAnswer,
}

impl FailureKind {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them.
    pub const ALL: [FailureKind; FailureKind::COUNT] = [
        FailureKind::Trap,
        FailureKind::Deadline,
        FailureKind::Timeout,
        FailureKind::Memory,
        FailureKind::OutOfMemory,
        FailureKind::Declared,
        FailureKind::Busy,
        FailureKind::Refused,
        FailureKind::Instantiate,
        FailureKind::BadAnswer,
    ];

    /// As metrics and logs show it.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Trap => "trap",
            FailureKind::Deadline => "deadline",
            FailureKind::Timeout => "timeout",
            FailureKind::Memory => "memory",
            FailureKind::OutOfMemory => "out-of-memory",
            FailureKind::Declared => "declared",
            FailureKind::Busy => "busy",
            FailureKind::Refused => "refused",
            FailureKind::Instantiate => "instantiate",
            FailureKind::BadAnswer => "bad-answer",
        }
    }
}

/// Why the runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the wasm engine refused its settings: {0}")]
    Engine(String),
    #[error("the ticker thread did not start")]
    Ticker(#[source] std::io::Error),
}

/// Why a plugin can't be loaded or a filter can't be made of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    #[error("not a WebAssembly component: the file does not start with the WebAssembly magic")]
    NotWasm,
    #[error(
        "a core WebAssembly module, not a component: build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    #[error("does not compile: {0}")]
    Compile(String),
    #[error("needs more than {0} MiB of memory to compile")]
    CompileMemory(u64),
    #[error("takes longer than {0:?} to compile")]
    CompileTime(Duration),
    #[error("was not loaded, since there is something newer to load")]
    Interrupted,
    #[error("imports `{import}`, which this gateway does not have (it has sluice:filter@0.1 and a part of WASI 0.2)")]
    UnknownImport { import: String },
    #[error(
        "imports the function `{function}` of `{interface}`, which this gateway does not have (it has sluice:filter@{known}): {advice}"
    )]
    MissingFunction { interface: String, function: String, known: &'static str, advice: String },
    #[error(
        "uses `{interface}`, a version that this gateway does not speak: it has sluice:filter@{known} and speaks every 0.1 version"
    )]
    Version { interface: String, known: &'static str },
    #[error("exports no hook of `sluice:filter@0.1`, {found}")]
    NoHooks { found: String },
    #[error("export `{export}` has another type than the interface says: {reason}")]
    Export { export: String, reason: String },
    #[error("does not link: {0}")]
    Link(String),
    #[error("could not be instantiated: {0}")]
    Instantiate(String),
    #[error("`describe` failed: {0}")]
    Describe(String),
    /// `configure` refused the config; the text is the filter's own, by convention `key.path: message`.
    #[error("{}", of_the_whole(.0))]
    Refused(String),
    #[error("`configure` failed: {0}")]
    Configure(#[source] FilterError),
    #[error("a limit is out of range: {0}")]
    Limit(String),
}

/// A refusal as it is read: what is about the whole config may begin with a colon, which stands for no key.
fn of_the_whole(refusal: &str) -> &str {
    refusal.strip_prefix(": ").unwrap_or(refusal)
}
