//! In which form a request is put, and what to leave out when a server refuses it.
//!
//! All servers take messages. Fewer take a JSON schema for the answer, some only "any JSON", some nothing of the kind; newer
//! models want `max_completion_tokens`, and some no temperature. Which, nobody can ask them: they say 400.

use std::fmt;

use serde_json::{Value, json};

use crate::endpoint::{Request, Role};
use crate::http::answer::ServerError;

/// How the shape of the answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `response_format` with the schema; the server holds the model to it.
    Schema,
    /// `response_format` for any JSON object; the schema stands in the instructions.
    Object,
    /// The instructions alone.
    Words,
}

/// What the longest answer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Longest {
    /// `max_tokens`, which nearly all servers take.
    Tokens,
    /// `max_completion_tokens`, which replaced it at `OpenAI`.
    CompletionTokens,
}

/// The form of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    form: Form,
    longest: Longest,
    temperature: bool,
    seed: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { form: Form::Schema, longest: Longest::Tokens, temperature: true, seed: true }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            Form::Schema => "json_schema",
            Form::Object => "json_object",
            Form::Words => "no response_format",
        };
        let longest = match self.longest {
            Longest::Tokens => "max_tokens",
            Longest::CompletionTokens => "max_completion_tokens",
        };
        write!(formatter, "{form}, {longest}")?;
        write!(formatter, "{}", if self.temperature { "" } else { ", no temperature" })?;
        write!(formatter, "{}", if self.seed { "" } else { ", no seed" })
    }
}

impl Dialect {
    /// The request as this dialect puts it.
    pub(super) fn body(self, model: &str, request: &Request) -> Value {
        let mut messages = json!(request.messages);
        let mut body = json!({"model": model, "stream": false});
        let schema = &request.schema;
        match self.form {
            Form::Schema => {
                let asked = json!({"name": schema.name, "strict": true, "schema": schema.value});
                body["response_format"] = json!({"type": "json_schema", "json_schema": asked});
            }
            Form::Object => body["response_format"] = json!({"type": "json_object"}),
            Form::Words => {}
        }
        if self.form != Form::Schema
            && let Some(first) = request.messages.first().filter(|first| first.role == Role::System)
        {
            let told = "Answer with one JSON object and nothing else. It must follow this JSON schema:";
            messages[0]["content"] = Value::String(format!("{}\n\n{told}\n{}", first.content, schema.value));
        }
        body["messages"] = messages;
        let longest = match self.longest {
            Longest::Tokens => "max_tokens",
            Longest::CompletionTokens => "max_completion_tokens",
        };
        body[longest] = json!(request.max_tokens);
        if self.temperature {
            body["temperature"] = json!(request.temperature);
        }
        if let Some(seed) = request.seed.filter(|_| self.seed) {
            body["seed"] = json!(seed);
        }
        body
    }

    /// A dialect to try after this error; none where the error is not about the form, or nothing simpler is left.
    ///
    /// A server that names what it does not take is believed. One that does not is tried with a plainer form of answer.
    pub(super) fn simpler(self, error: &ServerError) -> Option<Self> {
        let about_form = ["response_format", "json_schema", "json schema", "grammar", "guided", "structured"]
            .iter()
            .any(|word| error.is_about(word));
        match error.status {
            400 | 415 | 422 => {}
            // Some servers fail over a grammar that they cannot make of the schema.
            500 | 501 if about_form => {}
            _ => return None,
        }
        if error.is_too_long() || error.is_filtered() {
            return None;
        }
        if self.longest == Longest::Tokens && error.is_about("max_completion_tokens") {
            return Some(Self { longest: Longest::CompletionTokens, ..self });
        }
        if !about_form {
            if self.temperature && error.is_about("temperature") {
                return Some(Self { temperature: false, ..self });
            }
            if self.seed && error.is_about("seed") {
                return Some(Self { seed: false, ..self });
            }
        }
        match self.form {
            Form::Schema => Some(Self { form: Form::Object, ..self }),
            Form::Object => Some(Self { form: Form::Words, ..self }),
            Form::Words => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Message, Schema};

    fn request() -> Request {
        Request {
            messages: vec![Message::new(Role::System, "the rubric"), Message::new(Role::User, "{}")],
            schema: Schema { name: "labels", value: json!({"type": "object"}) },
            max_tokens: 7,
            temperature: 0.0,
            seed: Some(3),
        }
    }

    #[test]
    fn the_first_form_holds_the_server_to_the_schema() {
        let body = Dialect::default().body("m", &request());
        let format = json!({"type": "json_schema", "json_schema": {"name": "labels", "strict": true, "schema": {"type": "object"}}});
        assert_eq!(body["response_format"], format);
        assert_eq!(body["messages"][0], json!({"role": "system", "content": "the rubric"}));
        assert_eq!((&body["max_tokens"], &body["temperature"], &body["seed"]), (&json!(7), &json!(0.0), &json!(3)));
        assert_eq!((&body["model"], &body["stream"]), (&json!("m"), &json!(false)));
    }

    #[test]
    fn plainer_forms_say_the_schema_in_words() {
        let refused = |status, body: &str| ServerError::read(status, body.as_bytes());
        let object = Dialect::default().simpler(&refused(400, "response_format json_schema is not supported")).unwrap();
        let body = object.body("m", &request());
        assert_eq!(body["response_format"], json!({"type": "json_object"}));
        let told = body["messages"][0]["content"].as_str().unwrap();
        assert!(told.starts_with("the rubric\n\n") && told.ends_with(r#"{"type":"object"}"#), "{told}");
        let words = object.simpler(&refused(422, "")).unwrap();
        assert!(words.body("m", &request()).get("response_format").is_none());
        assert_eq!(words.simpler(&refused(400, "")), None, "nothing simpler is left");
        assert_eq!(words.to_string(), "no response_format, max_tokens");
    }

    #[test]
    fn what_a_server_names_is_left_out() {
        let named = |parameter: &str, message: &str| {
            let body = json!({"error": {"param": parameter, "message": message, "code": "unsupported_parameter"}});
            ServerError::read(400, body.to_string().as_bytes())
        };
        let longest = Dialect::default()
            .simpler(&named("max_tokens", "Unsupported parameter: use 'max_completion_tokens' instead."))
            .unwrap();
        let body = longest.body("m", &request());
        assert!(body.get("max_tokens").is_none() && body["max_completion_tokens"] == json!(7));
        let plain = longest.simpler(&named("temperature", "Only the default (1) value is supported.")).unwrap();
        assert!(plain.body("m", &request()).get("temperature").is_none());
        let plain = plain.simpler(&named("seed", "unknown")).unwrap();
        assert!(plain.body("m", &request()).get("seed").is_none());
        assert_eq!(plain.form, Form::Schema);
    }

    #[test]
    fn other_errors_do_not_change_the_form() {
        let refused = |status, body: &str| Dialect::default().simpler(&ServerError::read(status, body.as_bytes()));
        assert_eq!(refused(401, "json_schema"), None);
        assert_eq!(refused(429, ""), None);
        assert_eq!(refused(500, "out of memory"), None);
        assert!(refused(500, "failed to parse grammar").is_some());
        assert_eq!(refused(400, r#"{"error":{"code":"context_length_exceeded"}}"#), None);
    }
}
