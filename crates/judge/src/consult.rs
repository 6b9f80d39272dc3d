//! A question with one chance to mend the answer.
//!
//! A model that quotes what is not there, or writes no JSON, is told so and asked once more. What then still does not hold
//! is left out and counted; nothing is bent to fit.

use serde::de::DeserializeOwned;

use crate::endpoint::{Message, Request, Role, Unanswerable};
use crate::error::Error;
use crate::judge::{Judge, NoReply, Unusable};
use crate::run::{Outcome, Rejection};

/// Characters of a broken answer that the model is shown again.
const SHOWN_AGAIN: usize = 4_000;

/// What was made of an answer, and what about it does not hold: sentences for the model.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    pub(crate) value: T,
    pub(crate) complaints: Vec<String>,
}

/// Asks, and asks again once where the answer does not hold.
pub(crate) async fn consult<T>(
    judge: &Judge,
    request: &Request,
    read: impl Fn(&str) -> Option<Reading<T>>,
) -> Result<Outcome<T>, Error> {
    let (first, text, complaint) = match judge.ask(request, &read).await {
        Ok(reply) if reply.value.complaints.is_empty() => return Ok(Outcome::Done(reply.value.value)),
        Ok(reply) => {
            let complaint = format!(
                "Not all of this holds:\n- {}\nAnswer again, with the whole JSON object: keep what holds, mend or leave out the rest.",
                reply.value.complaints.join("\n- ")
            );
            (Some(reply.value.value), reply.text, complaint)
        }
        Err(NoReply::Unusable { reason: Unusable::Malformed, text }) => (
            None,
            text,
            "This is not one JSON object of the schema. Answer again, with nothing but that object.".to_owned(),
        ),
        Err(NoReply::Unusable { reason: Unusable::CutOff, text }) => {
            (None, text, "This was too long and got cut off. Answer again, shorter.".to_owned())
        }
        Err(no_reply) => return outcome(no_reply),
    };
    judge.count_asked_again();
    let mut again = request.clone();
    again.messages.push(Message::new(Role::Assistant, text.chars().take(SHOWN_AGAIN).collect::<String>()));
    again.messages.push(Message::new(Role::User, complaint));
    match (judge.ask(&again, &read).await, first) {
        (Ok(reply), _) => Ok(Outcome::Done(reply.value.value)),
        (Err(NoReply::Unusable { .. } | NoReply::Never(_)), Some(first)) => Ok(Outcome::Done(first)),
        (Err(no_reply), _) => outcome(no_reply),
    }
}

fn outcome<T>(no_reply: NoReply) -> Result<Outcome<T>, Error> {
    Ok(match no_reply {
        NoReply::Unusable { reason: Unusable::Refusal, .. } | NoReply::Never(Unanswerable::Filtered) => {
            Outcome::Rejected(Rejection::Refusal)
        }
        NoReply::Unusable { reason: Unusable::Malformed, .. } => Outcome::Rejected(Rejection::MalformedAnswer),
        NoReply::Unusable { reason: Unusable::CutOff, .. } => Outcome::Rejected(Rejection::AnswerCutOff),
        NoReply::Never(Unanswerable::TooLong) => Outcome::Rejected(Rejection::TooLong),
        NoReply::Never(Unanswerable::BadRequest) => Outcome::Rejected(Rejection::BadRequest),
        NoReply::Unanswered(reason) => Outcome::Unanswered(reason),
        NoReply::Halted(error) => return Err(error),
    })
}

/// The JSON object in an answer: models that are held to no schema put it into fences, or think aloud before it.
pub(crate) fn object<T: DeserializeOwned>(text: &str) -> Option<T> {
    if let Ok(value) = serde_json::from_str(text.trim()) {
        return Some(value);
    }
    let text = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer);
    text.match_indices('{').take(20).find_map(|(start, _)| {
        // Reads one value and leaves what follows it, such as the end of a fence.
        serde_json::Deserializer::from_str(text.get(start..)?).into_iter::<T>().next()?.ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_object_is_found_in_what_models_write() {
        for text in [
            r#"{"labels":[]}"#,
            "\n {\"labels\":[]}\n",
            "```json\n{\"labels\":[]}\n```",
            "<think>maybe {praise}? no</think>\n{\"labels\":[]}",
            "Here it is: {\"labels\":[]} I hope it helps.",
        ] {
            assert_eq!(object::<Value>(text), Some(json!({"labels": []})), "{text}");
        }
        for text in ["", "none", "{\"labels\":[", "no { at all }"] {
            assert_eq!(object::<Value>(text), None, "{text}");
        }
    }
}
