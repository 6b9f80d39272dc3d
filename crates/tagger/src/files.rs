//! The files of a model: read from a directory, told apart by their hash, their weights put together.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::settings::{CONFIG_FILE, TAGGER_FILE, TOKENIZER_FILE, WEIGHTS_FILE, WEIGHTS_INDEX_FILE};

/// The files of a model.
#[derive(Clone, Debug)]
pub struct ModelFiles<'a> {
    /// `config.json`
    pub config: Cow<'a, [u8]>,
    /// `tokenizer.json`
    pub tokenizer: Cow<'a, [u8]>,
    /// `model.safetensors`, or its parts in the order of their names.
    pub weights: Vec<Cow<'a, [u8]>>,
    /// `tagger.json`
    pub tagger: Cow<'a, [u8]>,
}

impl ModelFiles<'static> {
    /// Reads the files of a directory.
    ///
    /// # Errors
    /// [`Error::File`] with the path that could not be read, [`Error::Model`] for a list of weights that is none.
    pub fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| read_file(directory, name).map(Cow::Owned);
        Ok(Self {
            config: read(CONFIG_FILE)?,
            tokenizer: read(TOKENIZER_FILE)?,
            weights: weight_files(directory)?.into_iter().map(Cow::Owned).collect(),
            tagger: read(TAGGER_FILE)?,
        })
    }
}

impl ModelFiles<'_> {
    /// The first 12 hexadecimal digits of a hash over all files: another byte is another version.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let before = [&self.config, &self.tokenizer];
        for file in before.into_iter().chain(&self.weights).chain([&self.tagger]) {
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(file);
        }
        let digest = format!("{:x}", hash.finalize());
        digest.chars().take(12).collect()
    }
}

fn read_file(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path = directory.join(name);
    std::fs::read(&path).map_err(|source| Error::File { action: "read", path, source })
}

/// What matters of `model.safetensors.index.json`: which file holds which weight.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The files that hold the weights of the model in `directory`, in the order of their names: those that
/// `model.safetensors.index.json` names, or `model.safetensors` where there is no such list.
///
/// # Errors
/// [`Error::File`] where one cannot be read, [`Error::Model`] where the list is none or names files elsewhere.
pub fn weight_files(directory: &Path) -> Result<Vec<Vec<u8>>> {
    if !directory.join(WEIGHTS_INDEX_FILE).exists() {
        return Ok(vec![read_file(directory, WEIGHTS_FILE)?]);
    }
    let refuse = |reason: String| Error::model(WEIGHTS_INDEX_FILE, reason);
    let index: Index = serde_json::from_slice(&read_file(directory, WEIGHTS_INDEX_FILE)?)
        .map_err(|error| refuse(error.to_string()))?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if names.is_empty() {
        return Err(refuse("it names no file".to_owned()));
    }
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors")) {
        return Err(refuse(format!("it names `{name}`, which is no safetensors file beside it")));
    }
    names.into_iter().map(|name| read_file(directory, name)).collect()
}

/// Tensors of a safetensors file, by name.
///
/// # Errors
/// [`Error::Model`] where it is none.
pub fn read_weights(bytes: &[u8]) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|error| Error::model(WEIGHTS_FILE, format!("{error}; is it whole? git LFS pointers are not served")))
}

/// Tensors of several safetensors files, by name.
///
/// # Errors
/// [`Error::Model`] where one is none, or where two hold the same weight.
pub fn read_shards(files: &[impl AsRef<[u8]>]) -> Result<HashMap<String, Tensor>> {
    let mut all = HashMap::new();
    for file in files {
        for (name, tensor) in read_weights(file.as_ref())? {
            if all.contains_key(&name) {
                return Err(Error::model(WEIGHTS_FILE, format!("`{name}` stands in two of its parts")));
            }
            let _ = all.insert(name, tensor);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tagger::{Options, Tagger};
    use crate::tiny;

    /// A tiny model whose weights are two files.
    fn sharded() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let directory = tempfile::tempdir().unwrap();
        let files = tiny::files(1).unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
        put(CONFIG_FILE, &files.config);
        put(TOKENIZER_FILE, &files.tokenizer);
        put(TAGGER_FILE, &files.tagger);
        let mut weights: Vec<(String, Tensor)> = read_shards(&files.weights).unwrap().into_iter().collect();
        weights.sort_by(|left, right| left.0.cmp(&right.0));
        let mut map = serde_json::Map::new();
        let half = weights.len() / 2;
        let mut shards = Vec::new();
        for (name, part) in [("b.safetensors", &weights[half..]), ("a.safetensors", &weights[..half])] {
            for (weight, _) in part {
                let _ = map.insert(weight.clone(), name.into());
            }
            let bytes =
                safetensors::serialize(part.iter().map(|(name, tensor)| (name.as_str(), tensor)), None).unwrap();
            put(name, &bytes);
            shards.push(bytes);
        }
        put(WEIGHTS_INDEX_FILE, serde_json::json!({ "weight_map": map }).to_string().as_bytes());
        shards.reverse();
        (directory, shards)
    }

    #[test]
    fn weights_in_several_files_are_put_together() {
        let (directory, shards) = sharded();
        let files = ModelFiles::read(directory.path()).unwrap();
        assert!(files.weights.iter().zip(&shards).all(|(read, written)| **read == **written));
        let opened = Tagger::open(directory.path(), Options::default()).unwrap();
        let exchange = crate::Exchange::alone("how", "so", "thanks it worked");
        let whole = tiny::open(1, Options::default()).unwrap();
        let all = [exchange];
        assert_eq!(opened.tag(&all).unwrap(), whole.tag(&all).unwrap());
        assert_ne!(opened.version(), whole.version());
    }

    #[test]
    fn a_broken_list_of_weights_is_told() {
        let (directory, shards) = sharded();
        let path = directory.path().join(WEIGHTS_INDEX_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for (index, reason) in [
            ("{".to_owned(), "model.safetensors.index.json"),
            (r#"{"weight_map":{}}"#.to_owned(), "it names no file"),
            (text.replace("b.safetensors", "../b.safetensors"), "`../b.safetensors`"),
            (text.replace("b.safetensors", "b.bin"), "no safetensors file"),
            (text.replace("b.safetensors", "c.safetensors"), "c.safetensors"),
            (text.replace("b.safetensors", "a.safetensors"), "is missing"),
        ] {
            std::fs::write(&path, index).unwrap();
            let error = Tagger::open(directory.path(), Options::default()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        }
        let twice = read_shards(&[&shards[0], &shards[0]]).unwrap_err();
        assert!(twice.to_string().contains("in two of its parts"), "{twice}");
    }
}
