//! A language model of this machine as an endpoint of `uptake annotate`, for those who may send nothing out.
//!
//! The model lives on a thread of its own, where all questions that are under way go through it together.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::sync::oneshot;
use uptake_judge::{Completion, Endpoint, Failure, Finish, Request, Role, Unanswerable, Usage, async_trait};
use uptake_train::generate::{self, Deliver, Message, Question, Refusal, Responder, Response};

/// What an address of such an endpoint begins with.
pub(crate) const SCHEME: &str = "local:";
/// Characters of a model's hash that tell it from others.
const HASH: usize = 16;
/// Seed of draws where none is given.
const SEED: u64 = 42;

/// An endpoint that computes its answers itself.
#[derive(Debug)]
pub(crate) struct LocalEndpoint {
    model: String,
    questions: Sender<(Question, Deliver)>,
    /// Why the model answers no more.
    failed: Arc<Mutex<Option<String>>>,
}

impl LocalEndpoint {
    /// Loads a model from a directory as Hugging Face lays it out, to answer so many questions at once. Answers are signed
    /// with `name` and a hash of the model's files: they stay known when the directory moves, and are others' where it
    /// changes.
    ///
    /// # Errors
    /// Where the model cannot be loaded.
    pub(crate) fn load(directory: &Path, name: Option<&str>, rows: usize) -> anyhow::Result<Self> {
        let responder = Responder::load(directory, rows)
            .with_context(|| format!("load the language model in `{}`", directory.display()))?;
        let hash = responder.hash();
        let model = format!("{}@{}", name.unwrap_or("local"), hash.get(..HASH).unwrap_or(hash));
        let (questions, asked) = channel();
        let failed = Arc::new(Mutex::new(None));
        let report = Arc::clone(&failed);
        // It ends when the endpoint is dropped, or with the process: nothing that it does needs an orderly end.
        let thread = std::thread::Builder::new().name("local-judge".to_owned()).spawn(move || {
            if let Err(error) = responder.serve(&asked) {
                *report.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        });
        drop(thread.context("start a thread for the language model")?);
        Ok(Self { model, questions, failed })
    }

    fn failure(&self) -> Failure {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        Failure::Refused(failed.clone().unwrap_or_else(|| "the local model stopped without a word".to_owned()))
    }
}

fn question(request: &Request) -> Question {
    let role = |role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let messages = request.messages.iter();
    let messages =
        messages.map(|message| Message { role: role(message.role).to_owned(), content: message.content.clone() });
    Question {
        messages: messages.collect(),
        schema: Some(request.schema.value.clone()),
        max_new_tokens: request.max_tokens as usize,
        temperature: request.temperature,
        seed: request.seed.unwrap_or(SEED),
    }
}

fn completion(response: Response) -> Completion {
    let Response { text, finish, prompt_tokens, tokens } = response;
    let finish = match finish {
        generate::Finish::Stop => Finish::Stop,
        generate::Finish::Length => Finish::Length,
    };
    Completion { text, finish, usage: Some(Usage { input: prompt_tokens as u64, output: tokens as u64 }) }
}

fn failure(refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::TooLong { .. } => Failure::Never(Unanswerable::TooLong),
        Refusal::ControlToken => Failure::Never(Unanswerable::BadRequest),
        // All questions of a run are alike in roles and parameters: what it refuses of one it refuses of all.
        Refusal::Template(_) | Refusal::Invalid(_) => Failure::Refused(refusal.to_string()),
    }
}

#[async_trait]
impl Endpoint for LocalEndpoint {
    fn model(&self) -> &str {
        &self.model
    }

    async fn complete(&self, request: &Request) -> Result<Completion, Failure> {
        let (deliver, delivered) = oneshot::channel();
        // Whoever no longer waits for an answer is sent none.
        let deliver: Deliver = Box::new(move |answer| drop(deliver.send(answer)));
        self.questions.send((question(request), deliver)).map_err(|_| self.failure())?;
        match delivered.await {
            Ok(Ok(response)) => Ok(completion(response)),
            Ok(Err(refusal)) => {
                tracing::debug!(%refusal, "the local model takes no such question");
                Err(failure(&refusal))
            }
            Err(_) => Err(self.failure()),
        }
    }
}
