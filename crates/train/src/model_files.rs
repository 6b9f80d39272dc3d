//! The directory of a model: kept free for one run, its files written whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Serialize;
use uptake_tagger::{WEIGHTS_FILE, WEIGHTS_INDEX_FILE};

use crate::checkpoint;
pub(crate) use crate::decoder::write_file as write;
use crate::error::{Error, Result};

/// File of all figures.
pub(crate) const METRICS_FILE: &str = "metrics.json";
/// The card.
pub(crate) const CARD_FILE: &str = "README.md";

/// Bytes of weights in a file at most: hosts of repositories refuse larger files than 50 MB or so.
const SHARD_BYTES: usize = 48_000_000;

/// Makes the directory; one that holds anything but a run under way is refused.
pub(crate) fn prepare(out: &Path) -> Result<()> {
    let failed = |action, source| Error::File { action, path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(|source| failed("create", source))?;
    // A run that was killed while it wrote its files still has its checkpoint.
    if out.join(checkpoint::FOLDER).is_dir() {
        return Ok(());
    }
    if std::fs::read_dir(out).map_err(|source| failed("read", source))?.next().is_some() {
        return Err(Error::Invalid(format!("`{}` is not empty: name a new directory for the model", out.display())));
    }
    Ok(())
}

/// A file of weights.
#[derive(Debug)]
pub(crate) struct Shard {
    names: Vec<String>,
    pub(crate) bytes: Vec<u8>,
}

/// Weights in half precision, in as few files as the bound on a file allows, in the order of their names.
pub(crate) fn half_precision(weights: HashMap<String, Tensor>) -> Result<Vec<Shard>> {
    let sorted: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let mut parts: Vec<(usize, BTreeMap<String, Tensor>)> = Vec::new();
    for (name, tensor) in sorted {
        let tensor = tensor.to_dtype(DType::F16)?;
        let size = 2 * tensor.elem_count();
        match parts.last_mut() {
            Some((bytes, part)) if *bytes + size <= SHARD_BYTES => {
                *bytes += size;
                let _ = part.insert(name, tensor);
            }
            _ => parts.push((size, BTreeMap::from([(name, tensor)]))),
        }
    }
    let serialised = parts.into_iter().map(|(_, part)| {
        let bytes = safetensors::serialize(&part, None).map_err(|error| Error::Bug(error.to_string()))?;
        Ok(Shard { names: part.into_keys().collect(), bytes })
    });
    serialised.collect()
}

/// Writes one file of weights under its plain name, several with a list of which weight is where.
pub(crate) fn write_shards(out: &Path, shards: &[Shard]) -> Result<()> {
    if let [only] = shards {
        return write(&out.join(WEIGHTS_FILE), &only.bytes);
    }
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write(&out.join(&file), &shard.bytes)?;
        map.extend(shard.names.iter().map(|name| (name, file.clone())));
    }
    let bytes: usize = shards.iter().map(|shard| shard.bytes.len()).sum();
    let index = serde_json::json!({ "metadata": { "total_size": bytes }, "weight_map": map });
    write(&out.join(WEIGHTS_INDEX_FILE), &json(&index)?)
}

pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::Bug(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}
