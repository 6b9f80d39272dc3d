//! The pretrained encoder that training starts from.

use std::path::Path;

use uptake_tagger::EncoderConfig;

use crate::error::{Error, Result};

/// The pretrained encoder's directory.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) config: EncoderConfig,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) tokenizer: Vec<u8>,
    pub(crate) weights: Vec<Vec<u8>>,
}

impl Base {
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| Error::File { action: "read", path, source })
        };
        let config_bytes = read(uptake_tagger::CONFIG_FILE)?;
        Ok(Self {
            config: EncoderConfig::parse(&config_bytes)?,
            config_bytes,
            tokenizer: read(uptake_tagger::TOKENIZER_FILE)?,
            weights: uptake_tagger::weight_files(directory)?,
        })
    }
}
