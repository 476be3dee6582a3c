//! What an answer of a language model says of tokens: whole or event by event, as OpenAI's and Anthropic's APIs write it.

use serde::Deserialize;

/// A whole answer, or the data of an event. What it does not say is not there.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Answer {
    model: Option<String>,
    usage: Option<Usage>,
    /// OpenAI.
    choices: Vec<Choice>,
    /// Anthropic: `message_start` has the message, `content_block_delta` a piece of the text, `message_delta` the usage.
    message: Option<Message>,
    delta: Option<Delta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice {
    delta: Option<Delta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    model: Option<String>,
    usage: Option<Usage>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Delta {
    content: Option<String>,
    text: Option<String>,
}

impl Delta {
    fn has_text(&self) -> bool {
        [&self.content, &self.text].into_iter().flatten().any(|text| !text.is_empty())
    }
}

impl Answer {
    /// What a text says; nothing where it is no answer of a model, such as `[DONE]`.
    pub(crate) fn read(text: &[u8]) -> Answer {
        serde_json::from_slice(text).unwrap_or_default()
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref().or_else(|| self.message.as_ref()?.model.as_deref())
    }

    /// How many tokens the prompt had, where it says so.
    pub(crate) fn prompt(&self) -> Option<u64> {
        let begin = self.message.as_ref().and_then(|message| message.usage.as_ref());
        self.usage.iter().chain(begin).find_map(|usage| usage.prompt_tokens)
    }

    /// How many tokens the answer has so far, where it says so. What the beginning of a message says of them is no more than a placeholder.
    pub(crate) fn completion(&self) -> Option<u64> {
        self.usage.as_ref()?.completion_tokens
    }

    /// How many pieces of text it has. Models send about one for each token.
    pub(crate) fn deltas(&self) -> u64 {
        let choices = self.choices.iter().filter_map(|choice| choice.delta.as_ref());
        choices.chain(&self.delta).filter(|delta| delta.has_text()).count() as u64
    }
}
