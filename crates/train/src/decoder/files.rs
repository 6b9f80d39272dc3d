//! A Hugging Face directory of a decoder, and files written so that they are whole or not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uptake_tagger::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, read_weights};

use crate::error::{Error, Result};

const INDEX_FILE: &str = "model.safetensors.index.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";
const GENERATION_FILE: &str = "generation_config.json";
/// What else belongs to a model that is served; copied beside merged weights where it is there.
const COMPANIONS: [&str; 6] = [
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    TEMPLATE_FILE,
    "special_tokens_map.json",
    GENERATION_FILE,
    "added_tokens.json",
];

/// The files of a base model, its weights not yet read.
#[derive(Debug)]
pub(crate) struct BaseFiles {
    directory: PathBuf,
    pub(crate) config: Vec<u8>,
    pub(crate) tokenizer: Vec<u8>,
    /// Empty object where there is none.
    pub(crate) tokenizer_config: Vec<u8>,
    /// `chat_template.jinja`; where there is one, it goes before the template in `tokenizer_config.json`.
    pub(crate) template: Option<String>,
    /// How the model is meant to be asked for answers.
    pub(crate) generation: Option<Vec<u8>>,
}

/// The weights of a base model in single precision.
#[derive(Debug)]
pub(crate) struct BaseWeights {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// What they are stored in.
    pub(crate) stored: DType,
    /// SHA-256 of all weight files, hexadecimal.
    pub(crate) hash: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.to_owned(), source })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

impl BaseFiles {
    /// Reads everything but the weights.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let template = read_if_there(&directory.join(TEMPLATE_FILE))?;
        let template = template.map(String::from_utf8).transpose();
        Ok(Self {
            directory: directory.to_owned(),
            config: read(&directory.join(CONFIG_FILE))?,
            tokenizer: read(&directory.join(TOKENIZER_FILE))?,
            tokenizer_config: read_if_there(&directory.join(TOKENIZER_CONFIG_FILE))?.unwrap_or_else(|| b"{}".to_vec()),
            template: template.map_err(|_| Error::Invalid(format!("{TEMPLATE_FILE} of the base model is no UTF-8")))?,
            generation: read_if_there(&directory.join(GENERATION_FILE))?,
        })
    }

    fn shards(&self) -> Result<Vec<PathBuf>> {
        let Some(index) = read_if_there(&self.directory.join(INDEX_FILE))? else {
            return Ok(vec![self.directory.join(WEIGHTS_FILE)]);
        };
        let index: Index = serde_json::from_slice(&index)
            .map_err(|error| Error::Invalid(format!("{INDEX_FILE} of the base model: {error}")))?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            return Err(Error::Invalid(format!(
                "{INDEX_FILE} of the base model names `{name}` outside of its directory"
            )));
        }
        Ok(names.iter().map(|name| self.directory.join(name)).collect())
    }

    /// Reads the weights.
    pub(crate) fn weights(&self) -> Result<BaseWeights> {
        let mut tensors = BTreeMap::new();
        let mut stored = DType::F32;
        let mut hash = Sha256::new();
        for shard in self.shards()? {
            let bytes = read(&shard)?;
            hash.update(&bytes);
            for (name, tensor) in read_weights(&bytes)? {
                if name == "model.embed_tokens.weight" {
                    stored = tensor.dtype();
                }
                let _ = tensors.insert(name, tensor.to_dtype(DType::F32)?);
            }
        }
        Ok(BaseWeights { tensors, stored, hash: format!("{:x}", hash.finalize()) })
    }

    /// Copies tokenizer, template and configuration to another directory.
    pub(crate) fn copy_companions(&self, to: &Path) -> Result<()> {
        write_file(&to.join(CONFIG_FILE), &self.config)?;
        for name in COMPANIONS {
            if let Some(bytes) = read_if_there(&self.directory.join(name))? {
                write_file(&to.join(name), &bytes)?;
            }
        }
        Ok(())
    }
}

/// Writes a file under another name first, so that it is whole or not there, also after a power cut.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |new| std::fs::File::create(new)?.write_all(bytes))
}

/// Writes tensors by name. The bytes depend on names and values alone.
pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, note: &[(&str, String)]) -> Result<()> {
    let note: HashMap<String, String> = note.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    replace(path, |new| safetensors::serialize_to_file(tensors, Some(note), new).map_err(std::io::Error::other))
}

fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let attempt = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        write(&new)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)
    };
    attempt().map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}
