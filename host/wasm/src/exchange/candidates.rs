//! The endpoints that could serve a request. They are looked up when a filter asks for them, and then once for each choice: most filters
//! that choose do it by a key and never look.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

/// An endpoint that could serve the request, as `route.endpoints` and `route.state-of-endpoint` show it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub upstream: Arc<str>,
    pub address: Arc<str>,
    pub weight: u32,
    pub healthy: bool,
    pub active: u32,
    pub latency_us: u64,
    pub labels: Arc<Vec<(String, String)>>,
    /// Why it is not to be asked now.
    pub out: Vec<&'static str>,
    /// As `peak_ewma` sees it; 0 when not known.
    pub ewma_us: u64,
}

/// Who knows the endpoints of a route.
pub trait CandidateSource: Send + Sync {
    /// The endpoints as they are now.
    fn list(&self) -> Vec<Candidate>;
}

/// The endpoints as they are at one choice. None where no filter chooses.
#[derive(Default)]
pub struct Candidates {
    source: Option<Arc<dyn CandidateSource>>,
    listed: OnceCell<Vec<Candidate>>,
}

impl Candidates {
    /// The endpoints that `source` knows when they are first looked at.
    pub fn of(source: Arc<dyn CandidateSource>) -> Self {
        Candidates { source: Some(source), listed: OnceCell::new() }
    }

    /// These endpoints.
    pub fn fixed(list: Vec<Candidate>) -> Self {
        Candidates { source: None, listed: OnceCell::from(list) }
    }

    pub fn list(&self) -> &[Candidate] {
        self.listed.get_or_init(|| self.source.as_ref().map(|source| source.list()).unwrap_or_default())
    }

    pub fn find(&self, upstream: &str, address: &str) -> Option<&Candidate> {
        self.list().iter().find(|candidate| *candidate.upstream == *upstream && *candidate.address == *address)
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listed.fmt(f)
    }
}
