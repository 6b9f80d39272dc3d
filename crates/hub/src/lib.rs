//! Base models by their names on a hub, such as `HuggingFaceTB/SmolLM2-135M-Instruct@main`.
//!
//! What is fetched lies in the cache that `huggingface_hub` keeps (`models--ORG--NAME/{blobs,refs,snapshots}`), so that
//! neither fetches what the other has. A model that lies there whole is used without asking anybody.
//!
//! Core types:
//! - [`Name`]: a repository and a revision;
//! - [`Settings`]: where the hub and the cache are, by the environment variables that everybody knows;
//! - [`Hub`]: finds a model in the cache, or fetches it.
//!
//! Invariants:
//! - A file has its name in the cache when it is whole; what a broken connection left is gone on with.
//! - A blob that is named by its SHA-256 has it.
//! - The token goes to the hub itself and to no host that it redirects to, and is shown nowhere.
//! - With `HF_HUB_OFFLINE` nothing is asked.
//!
//! Absent on purpose: datasets, pushing, and weights other than safetensors.

mod cache;
mod client;
mod error;
mod fetch;
mod name;
mod settings;

pub use error::{Error, ErrorKind, Result};
pub use fetch::{Hub, Progress};
pub use name::Name;
pub use settings::{Settings, Token};

#[cfg(test)]
mod tests;
