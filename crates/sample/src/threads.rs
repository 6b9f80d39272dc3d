//! The conversations of `data/threads.txt`.
//!
//! One thread a block: `== topic`, then `U:` and `A:` lines in turn (an answer may run over several lines). After the
//! first answer there may stand a poor answer to the same question (`W:`), the complaint that it draws (`C labels:`) and
//! what the user says to the good answer after that (`S labels:`). Follow-ups after `U:` carry no signal.

use uptake_model::labels::Label;

use crate::error::Error;

const FILE: &str = "data/threads.txt";
const TEXT: &str = include_str!("../data/threads.txt");

/// A question, its answer, and how it may go on.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    /// What it is about.
    pub(crate) topic: String,
    /// Question and answer in turn; the first question first.
    pub(crate) exchanges: Vec<(String, String)>,
    /// A poor first answer and what follows from it.
    pub(crate) poor: Option<Poor>,
}

/// A poor answer, the complaint, and the satisfied follow-up to the good one.
#[derive(Debug, Clone)]
pub(crate) struct Poor {
    /// The poor answer.
    pub(crate) answer: String,
    /// The complaint.
    pub(crate) complaint: Said,
    /// What the user says to the good answer.
    pub(crate) relief: Said,
}

/// A follow-up with what it really says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// The text.
    pub(crate) text: String,
    /// Its labels.
    pub(crate) labels: Vec<Label>,
}

impl Thread {
    /// Whether answers hold code, which people copy.
    pub(crate) fn holds_code(&self) -> bool {
        self.exchanges.iter().any(|(_, answer)| answer.contains("```") || answer.starts_with('`'))
    }

    /// The language, for the topics that are in another one.
    pub(crate) fn language(&self) -> &'static str {
        match self.topic.as_str() {
            "spanish" => "es",
            "german" => "de",
            "french" => "fr",
            _ => "en",
        }
    }
}

/// Where the lines of a block go.
#[derive(Default)]
struct Block {
    topic: String,
    questions: Vec<String>,
    answers: Vec<String>,
    poor: Option<String>,
    complaint: Option<Said>,
    relief: Option<Said>,
}

enum Place {
    Question,
    Answer,
    Poor,
    Complaint,
    Relief,
}

impl Block {
    fn text(&mut self, place: &Place) -> Option<&mut String> {
        match place {
            Place::Question => self.questions.last_mut(),
            Place::Answer => self.answers.last_mut(),
            Place::Poor => self.poor.as_mut(),
            Place::Complaint => self.complaint.as_mut().map(|said| &mut said.text),
            Place::Relief => self.relief.as_mut().map(|said| &mut said.text),
        }
    }

    fn close(self) -> Result<Thread, String> {
        if self.questions.is_empty() || self.questions.len() != self.answers.len() {
            return Err(format!("`== {}`: every question needs an answer", self.topic));
        }
        let poor = match (self.poor, self.complaint, self.relief) {
            (None, None, None) => None,
            (Some(answer), Some(complaint), Some(relief)) => Some(Poor { answer, complaint, relief }),
            _ => return Err(format!("`== {}`: W, C and S go together", self.topic)),
        };
        Ok(Thread { topic: self.topic, exchanges: self.questions.into_iter().zip(self.answers).collect(), poor })
    }
}

/// Reads all threads.
pub(crate) fn load() -> Result<Vec<Thread>, Error> {
    parse(TEXT)
}

fn parse(text: &str) -> Result<Vec<Thread>, Error> {
    let mut threads = Vec::new();
    let mut open: Option<Block> = None;
    let mut place = Place::Question;
    for (at, line) in text.lines().enumerate() {
        let fault = |reason: String| Error::Text { file: FILE, line: at + 1, reason };
        if let Some(topic) = line.strip_prefix("== ") {
            if let Some(block) = open.replace(Block { topic: topic.to_owned(), ..Block::default() }) {
                threads.push(block.close().map_err(fault)?);
            }
            continue;
        }
        let Some(block) = open.as_mut() else {
            return Err(fault("a text before the first `== topic`".to_owned()));
        };
        if let Some((next, said)) = begin(line).map_err(fault)? {
            place = next;
            match place {
                Place::Question => block.questions.push(said.text),
                Place::Answer => block.answers.push(said.text),
                Place::Poor => block.poor = Some(said.text),
                Place::Complaint => block.complaint = Some(said),
                Place::Relief => block.relief = Some(said),
            }
        } else if let Some(text) = block.text(&place) {
            text.push('\n');
            text.push_str(line);
        }
    }
    if let Some(block) = open {
        threads.push(block.close().map_err(|reason| Error::Text { file: FILE, line: text.lines().count(), reason })?);
    }
    for thread in &mut threads {
        thread.trim();
    }
    Ok(threads)
}

impl Thread {
    fn trim(&mut self) {
        let trim = |text: &mut String| text.truncate(text.trim_end().len());
        for (question, answer) in &mut self.exchanges {
            trim(question);
            trim(answer);
        }
        if let Some(poor) = &mut self.poor {
            trim(&mut poor.answer);
            trim(&mut poor.complaint.text);
            trim(&mut poor.relief.text);
        }
    }
}

/// Whether a line begins a text, which one, and its first line.
fn begin(line: &str) -> Result<Option<(Place, Said)>, String> {
    let plain = |text: &str| Said { text: text.to_owned(), labels: Vec::new() };
    Ok(if let Some(text) = line.strip_prefix("U: ") {
        Some((Place::Question, plain(text)))
    } else if let Some(text) = line.strip_prefix("A: ") {
        Some((Place::Answer, plain(text)))
    } else if let Some(text) = line.strip_prefix("W: ") {
        Some((Place::Poor, plain(text)))
    } else if let Some(text) = line.strip_prefix("C ") {
        Some((Place::Complaint, labelled(text)?))
    } else if let Some(text) = line.strip_prefix("S ") {
        Some((Place::Relief, labelled(text)?))
    } else {
        None
    })
}

fn labelled(text: &str) -> Result<Said, String> {
    let (names, text) = text.split_once(": ").ok_or("expected `C label,label: text`")?;
    let labels = names.split(',').map(|name| name.parse().map_err(|_| format!("`{name}` is no label")));
    Ok(Said { labels: labels.collect::<Result<_, _>>()?, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_threads_read_and_differ() {
        let threads = load().unwrap();
        assert!(threads.len() >= 120, "{}", threads.len());
        assert!(threads.iter().filter(|thread| thread.poor.is_some()).count() >= 50);
        let mut questions: Vec<&str> =
            threads.iter().flat_map(|thread| &thread.exchanges).map(|(question, _)| question.as_str()).collect();
        let all = questions.len();
        questions.sort_unstable();
        questions.dedup();
        assert_eq!((all, true), (questions.len(), all >= 240));
    }

    #[test]
    fn answers_keep_their_lines() {
        let threads = parse("== a\nU: q\nA: one\n\ntwo\nU: r\nA: s\n\n== b\nU: x\nA: y\n").unwrap();
        assert_eq!(threads[0].exchanges[0].1, "one\n\ntwo");
        assert_eq!(threads[0].exchanges[1].1, "s");
        assert_eq!(threads[1].topic, "b");
    }

    #[test]
    fn faults_name_their_line() {
        for (text, line) in [("U: q\n", 1), ("== a\nU: q\n", 2), ("== a\nU: q\nA: a\nC sadness: x\n", 4)] {
            assert!(matches!(parse(text), Err(Error::Text { line: found, .. }) if found == line), "{text}");
        }
    }
}
