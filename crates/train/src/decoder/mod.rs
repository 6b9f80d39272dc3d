//! A decoder-only language model that can be trained: the Llama layout (`SmolLM2` among them), Qwen2 and Qwen3.
//!
//! - `DecoderConfig`: what a Hugging Face `config.json` says, refused where this decoder would compute something else.
//! - `Decoder`: packed sequences (nothing is padded), gradients of the adapter only, activations of each layer computed
//!   again in the backward pass where that is wanted.
//! - [`Adapter`]: low-rank updates (`LoRA`, Hu et al. 2021) on any of the seven projections, in PEFT's layout.
//! - `merge`: an adapter that PEFT or we wrote, added to the weights of its base model.
//!
//! Single precision on the processor. candle's fused operations have no backward pass and its matrix product would form
//! and keep the gradient of each frozen weight; `ops` has operations that do neither.

mod adapter;
mod config;
mod files;
mod layer;
mod merge;
mod model;
mod ops;

pub(crate) use adapter::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
pub use adapter::{Adapter, Module};
pub(crate) use config::{DecoderConfig, Family};
pub(crate) use files::{BaseFiles, BaseWeights, write_file, write_tensors};
pub(crate) use merge::merge;
pub(crate) use model::{Decoder, Packed, Weights};
pub(crate) use ops::Rotation;

#[cfg(test)]
pub(crate) mod tests;
