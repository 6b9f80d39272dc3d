//! The labelled follow-ups of `data/authored.jsonl.gz`.

use std::io::{BufRead as _, BufReader};

use flate2::read::GzDecoder;
use serde::Deserialize;
use uptake_model::labels::Label;

use crate::error::Error;

const FILE: &str = "data/authored.jsonl.gz";
const BYTES: &[u8] = include_bytes!("../data/authored.jsonl.gz");

/// One conversation up to a labelled follow-up, which is its last message.
#[derive(Debug)]
pub(crate) struct Authored {
    /// (role, content), user and assistant in turn, user first and last.
    pub(crate) messages: Vec<(String, String)>,
    /// Satisfaction in the follow-up.
    pub(crate) sat: Vec<Label>,
    /// Dissatisfaction in the follow-up.
    pub(crate) dsat: Vec<Label>,
}

#[derive(Deserialize)]
struct Line {
    conversation_id: String,
    turn: usize,
    messages: Vec<Message>,
    sat: Vec<String>,
    dsat: Vec<String>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Reads those whose conversation is `usable`.
pub(crate) fn load(usable: fn(&str) -> bool) -> Result<Vec<Authored>, Error> {
    let mut found = Vec::new();
    for (at, line) in BufReader::new(GzDecoder::new(BYTES)).lines().enumerate() {
        let fault = |reason: String| Error::Text { file: FILE, line: at + 1, reason };
        let line: Line = serde_json::from_str(&line.map_err(|error| fault(error.to_string()))?)
            .map_err(|error| fault(error.to_string()))?;
        if !usable(&line.conversation_id) {
            continue;
        }
        if line.turn + 1 != line.messages.len() || line.messages.first().is_none_or(|first| first.role != "user") {
            return Err(fault("the follow-up must be the last message, and a user must begin".to_owned()));
        }
        let labels = |names: &[String]| -> Result<Vec<Label>, Error> {
            names.iter().map(|name| name.parse().map_err(|_| fault(format!("`{name}` is no label")))).collect()
        };
        found.push(Authored {
            sat: labels(&line.sat)?,
            dsat: labels(&line.dsat)?,
            messages: line.messages.into_iter().map(|message| (message.role, message.content)).collect(),
        });
    }
    Ok(found)
}
