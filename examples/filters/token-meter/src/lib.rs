//! Counts the tokens of language models by consumer and model, while their answers stream, and holds each consumer to a budget.

mod usage;

use sluice_filter::limiter::{self, Algorithm, Limit};
use sluice_filter::{Duration, Event, metrics, prelude::*};

use usage::Answer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenMeter {
    /// How many tokens a consumer may use in a window.
    tokens: u64,
    window: Duration,
    /// The models that have a label of their own; the answers of others count as `other`.
    models: Vec<String>,
}

/// What is known of an answer that streams.
#[derive(Serialize, Deserialize, Default)]
struct Stream {
    model: String,
    /// What was counted and spent so far.
    prompt: u64,
    completion: u64,
}

impl Filter for TokenMeter {
    type Config = Self;

    fn new(config: Self, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.tokens == 0 {
            return Err(ConfigError::new("tokens", "expected at least 1"));
        }
        setup.response_body(1 << 20, &["application/json"])?;
        setup.response_events(&["text/event-stream"])?;
        setup.needs(&sluice_filter::serde_json::json!({ "authentication": true }))?;
        Ok(config)
    }
}

impl OnRequest for TokenMeter {
    fn on_request(&self, _: &Request) -> Result<Verdict, Error> {
        // What a request will cost is known when it is answered: one passes as long as there is something left.
        let limit = [self.limit(&consumer()?)];
        let Some(standing) = limiter::take(&limit, 0)?.pop().filter(|standing| standing.remaining == 0) else {
            return Ok(Verdict::Continue);
        };
        let wait = standing.reset_ms.div_ceil(1000).max(1).to_string();
        metrics::count("refused_total", &[("consumer", &consumer()?)], 1)?;
        let problem = Problem::new(429, "Too Many Requests").detail("the budget of tokens is spent");
        problem.draft().reason("tokens-spent").header("retry-after", &wait).send()
    }
}

impl OnResponseBody for TokenMeter {
    fn on_response_body(&self, response: &Response) -> Result<Verdict, Error> {
        self.meter(&Answer::read(&response.body()?), &mut Stream::default())?;
        Ok(Verdict::Continue)
    }
}

impl OnResponseEvent for TokenMeter {
    fn on_response_event(&self, event: &Event) -> Result<(), Error> {
        let Some(data) = event.data()? else { return Ok(()) };
        // An instance serves other exchanges between two events, so that nothing of this one is kept in it.
        let mut stream = state::get::<Stream>()?.unwrap_or_default();
        self.meter(&Answer::read(data.as_bytes()), &mut stream)?;
        state::set(&stream)
    }
}

impl TokenMeter {
    /// Counts and spends what an answer says beyond what was counted before. Each piece of text is a token until the model says how many
    /// there were, so that a client who leaves early has paid for what it got.
    fn meter(&self, answer: &Answer, stream: &mut Stream) -> Result<(), Error> {
        if let Some(model) = answer.model().filter(|_| stream.model.is_empty()) {
            stream.model = self.models.iter().find(|known| *known == model).map_or("other", String::as_str).to_owned();
        }
        let prompt = answer.prompt().unwrap_or_default().saturating_sub(stream.prompt);
        let completion = match answer.completion() {
            Some(completion) => completion.saturating_sub(stream.completion),
            None => answer.deltas(),
        };
        if prompt + completion == 0 {
            return Ok(());
        }
        stream.prompt += prompt;
        stream.completion += completion;
        let consumer = consumer()?;
        let model = if stream.model.is_empty() { "other" } else { &stream.model };
        for (kind, tokens) in [("prompt", prompt), ("completion", completion)] {
            if tokens > 0 {
                metrics::count("tokens_total", &[("consumer", &consumer), ("model", model), ("kind", kind)], tokens)?;
            }
        }
        self.spend(&consumer, prompt + completion)
    }

    /// Takes tokens from the budget of a consumer. Where fewer are left, all of them go.
    fn spend(&self, consumer: &str, tokens: u64) -> Result<(), Error> {
        let limit = [self.limit(consumer)];
        let short = limiter::take(&limit, tokens.min(self.tokens))?.pop().filter(|standing| !standing.allowed);
        if let Some(left) = short.map(|standing| standing.remaining).filter(|left| *left > 0) {
            limiter::take(&limit, left)?;
        }
        Ok(())
    }

    fn limit(&self, consumer: &str) -> Limit {
        let window_ms = self.window.as_millis();
        Limit {
            key: format!("tokens:{consumer}"),
            algorithm: Algorithm::FixedWindow,
            amount: self.tokens,
            window_ms,
            burst: 0,
        }
    }
}

/// Who pays: all callers without a name have one budget.
fn consumer() -> Result<String, Error> {
    Ok(context::consumer()?.unwrap_or_else(|| "nobody".to_owned()))
}

sluice_filter::export!(TokenMeter: OnRequest, OnResponseBody, OnResponseEvent);

#[cfg(test)]
mod tests;
