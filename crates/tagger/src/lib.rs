//! The signal classifier: how does a user's follow-up take the response before it?
//!
//! Core types, one line each:
//! - [`Exchange`]: last user message, response, follow-up and what came before, read out of a conversation in one place.
//! - [`Template`]: turns an exchange into an [`Input`], the tokens of it, as the model's [`Layout`] says.
//! - [`Encoder`]: BERT on packed sequences (nothing is padded), 20 logits an input.
//! - [`Tagger`]: loads a model, refuses one that computes something else than when it was made, scores exchanges.
//! - [`Scores`]: 20 calibrated probabilities and which of them fire.
//! - [`explain`]: which words moved each label.
//! - [`lines`]: a file of conversations in, a line for each follow-up out.
//!
//! A model is a directory: `config.json`, `tokenizer.json`, `model.safetensors` (`f16` or `f32`; or several such files and
//! `model.safetensors.index.json`) and `tagger.json` ([`TaggerConfig`]). One is compiled into the program: [`Tagger::embedded`].
//!
//! Invariants: the version of a tagger is a hash of its files; a score depends on the exchange alone, not on what is
//! scored beside it; no text, whatever it holds, is an error.
//!
//! Absent on purpose: async (scoring takes processor time, callers keep it off async threads), unsafe code, and training,
//! which is `uptake-train`'s.

mod cache;
mod embedded;
mod encoder;
mod error;
mod exchange;
pub mod explain;
mod files;
mod input;
pub mod kernels;
pub mod lines;
mod modern;
mod relation;
mod scores;
mod settings;
mod tagger;
mod texts;
#[cfg(any(test, feature = "testing"))]
pub mod tiny;

// Never called by name: its feature turns on the widest matrix kernels that candle can use.
use gemm as _;

pub use encoder::Encoder;
pub use error::{Error, ErrorKind, Result};
pub use exchange::{EARLIER, Exchange, LOOKED_AT, Message, Role};
pub use files::{ModelFiles, read_shards, read_weights, weight_files};
pub use input::{Input, Template};
pub use modern::{Modern, Sight};
pub use scores::Scores;
pub use settings::{
    CONFIG_FILE, Calibration, EncoderConfig, Golden, Layout, MODEL_TYPES, TAGGER_FILE, TOKENIZER_FILE, TaggerConfig,
    WEIGHTS_FILE, WEIGHTS_INDEX_FILE,
};
pub use tagger::{Options, Tagger};
pub use texts::TextTokenizer;
