//! Language models as annotators: they read how users took an assistant's answers, by a rubric that people can edit.
//!
//! The way is that of SPUR (supervised prompting for user satisfaction rubrics) in three stages, each a file that the
//! next one reads:
//! 1. [`reasons`]: exchanges whose outcome is known (reactions, labels) → why the user was (dis)satisfied;
//! 2. [`summary`]: reasons → a [`Rubric`], a TOML file with the labels, what they mean and how they show in this product;
//! 3. [`score`]: follow-ups → the 18 labels, each with evidence that is a literal passage of the user's own words, in the
//!    format that the classifier is trained from.
//!
//! Core types:
//! - [`Endpoint`]: whatever completes chats; [`HttpEndpoint`] is any server that speaks OpenAI's chat completions, others
//!   (a model of this machine) come from the caller;
//! - [`Judge`]: an endpoint with cache, budget, retries and bounded concurrency; every request goes through it;
//! - [`Rubric`]: what is asked; [`Rubric::built_in`] is made from the project's labelling guide;
//! - [`Agreement`]: how far two annotators agree, by Cohen's kappa.
//!
//! Invariants:
//! - A label whose evidence is not in the follow-up is not written; it is asked about once more, then counted under its
//!   reason.
//! - Output is appended in the order of the input and never rewritten: a run that was killed goes on where it was, and what
//!   the endpoint has answered is never asked again (the cache is keyed by content).
//! - The API key is sent to the endpoint and shown nowhere.
//! - No request is sent that might overrun the budget.
//!
//! Absent on purpose: streaming of answers (they are short and read whole), and tools. Nothing here knows tables.

mod agreement;
mod budget;
mod cache;
mod consult;
mod endpoint;
mod error;
mod evidence;
mod http;
mod judge;
mod output;
mod reader;
pub mod reasons;
mod retry;
mod rows;
mod rubric;
mod run;
pub mod score;
pub mod summary;
mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use async_trait::async_trait;

pub use agreement::{Agreement, Compared, Kappa, Readings, compare};
pub use budget::{Budget, Exhausted, Limits, Prices};
pub use cache::Cache;
pub use endpoint::{Completion, Endpoint, Failure, Finish, Message, Request, Retry, Role, Schema, Unanswerable, Usage};
pub use error::{Error, ErrorKind, Result};
pub use evidence::Fault;
pub use http::{Access, ApiKey, HttpEndpoint};
pub use judge::{Judge, Options};
pub use output::Annotator;
pub use reader::{BadLines, Survey, survey};
pub use retry::RetryPolicy;
pub use rows::Key;
pub use rubric::{Criterion, Entry, Rubric};
pub use run::{Job, Rejection, Rows};
pub use tally::Tally;

#[cfg(test)]
mod tests;
