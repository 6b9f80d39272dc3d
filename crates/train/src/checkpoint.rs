//! What a killed run leaves, so that it loses little: weights, moments and the place in the data, below
//! `OUT/checkpoint`; and the best weights so far.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::adamw::AdamW;
use crate::average::Average;
use crate::encoder::TrainableEncoder;
use crate::error::{Error, Result};

/// Name of the folder in the model's directory.
pub(crate) const FOLDER: &str = "checkpoint";
const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress.json";
const BEST: &str = "best.safetensors";

/// How far a run has come; `E` is what is measured after a pass.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Progress<E> {
    /// Of options and data: a checkpoint is for the same run only.
    pub(crate) run: String,
    /// Passes done.
    pub(crate) epoch: usize,
    /// Batches done of the next pass.
    pub(crate) batch: usize,
    /// Sum of their losses.
    pub(crate) loss: f64,
    /// Steps done in all.
    pub(crate) steps: usize,
    /// Passes since the best one.
    pub(crate) stale: usize,
    /// Passes as measured.
    pub(crate) history: Vec<E>,
}

impl<E> Progress<E> {
    const fn start(run: String) -> Self {
        Self { run, epoch: 0, batch: 0, loss: 0.0, steps: 0, stale: 0, history: Vec::new() }
    }
}

/// To six decimals. What is measured is kept so: JSON does not give every double back to the last bit, and a run that was
/// taken up must report what one that never stopped does.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// What tells a run from others: its options, and what its data say.
pub(crate) fn fingerprint(options: &impl Serialize, data: &str) -> Result<String> {
    let json = serde_json::to_vec(&(options, data)).map_err(|error| Error::Bug(error.to_string()))?;
    Ok(format!("{:x}", Sha256::digest(json)))
}

fn folder(out: &Path) -> PathBuf {
    out.join(FOLDER)
}

/// Writes a checkpoint. The state goes before the progress that tells of it, each under another name first.
pub(crate) fn write<E: Serialize>(
    out: &Path,
    encoder: &TrainableEncoder,
    optimiser: &AdamW,
    average: Option<&Average>,
    progress: &Progress<E>,
) -> Result<()> {
    let folder = folder(out);
    let mut tensors = HashMap::new();
    for (name, tensor) in encoder.tensors() {
        let _ = tensors.insert(format!("weight.{name}"), tensor);
    }
    for (name, first, second) in optimiser.state() {
        let _ = tensors.insert(format!("first.{name}"), Tensor::new(first, &Device::Cpu)?);
        let _ = tensors.insert(format!("second.{name}"), Tensor::new(second, &Device::Cpu)?);
    }
    if let Some(average) = average {
        for (name, tensor) in average.tensors(encoder.weights())? {
            let _ = tensors.insert(format!("average.{name}"), tensor);
        }
    }
    // The step stands in the state too: after a kill between the two files they do not agree, and are not taken up.
    let steps = u32::try_from(progress.steps).map_err(|error| Error::Bug(error.to_string()))?;
    let _ = tensors.insert("steps".to_owned(), Tensor::new(&[steps], &Device::Cpu)?);
    save(&tensors, &folder, STATE)?;
    let json = serde_json::to_vec_pretty(progress).map_err(|error| Error::Bug(error.to_string()))?;
    let path = folder.join(PROGRESS);
    let written = std::fs::write(folder.join("new"), json).and_then(|()| std::fs::rename(folder.join("new"), &path));
    written.map_err(|source| Error::File { action: "write", path, source })
}

fn save(tensors: &HashMap<String, Tensor>, folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    let new = folder.join("new");
    let write = || {
        std::fs::create_dir_all(folder)?;
        safetensors::serialize_to_file(tensors, None, &new).map_err(std::io::Error::other)?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|source| Error::File { action: "write", path: path.clone(), source })
}

/// Takes up the checkpoint of the same run, if there is one.
pub(crate) fn take_up<E: DeserializeOwned>(
    out: &Path,
    run: String,
    encoder: &TrainableEncoder,
    optimiser: &mut AdamW,
    average: Option<&mut Average>,
) -> Result<Progress<E>> {
    let path = folder(out).join(PROGRESS);
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Progress::start(run)),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    let other = |reason: &str| {
        Err(Error::Invalid(format!("`{}` {reason}: remove the folder or name another", folder(out).display())))
    };
    let Ok(progress) = serde_json::from_slice::<Progress<E>>(&json) else {
        return other("holds a checkpoint that cannot be read");
    };
    if progress.run != run {
        return other("holds the checkpoint of a run with other options or other data");
    }
    let mut state = load(&folder(out).join(STATE))?;
    let steps = state.remove("steps").map(|steps| steps.to_vec1::<u32>()).transpose()?;
    if steps.and_then(|steps| steps.first().copied()).is_none_or(|steps| steps as usize != progress.steps) {
        return other("holds a checkpoint that was cut short");
    }
    let mut take = |name: String| {
        state.remove(&name).ok_or_else(|| Error::Invalid(format!("the checkpoint has no `{name}`: remove its folder")))
    };
    for (name, var) in encoder.weights() {
        var.set(&take(format!("weight.{name}"))?)?;
    }
    let steps = i32::try_from(progress.steps).map_err(|error| Error::Bug(error.to_string()))?;
    optimiser.restore(steps, |name| {
        Ok((take(format!("first.{name}"))?.to_vec1()?, take(format!("second.{name}"))?.to_vec1()?))
    })?;
    if let Some(average) = average {
        average.restore(|name| take(format!("average.{name}")))?;
    }
    Ok(progress)
}

fn load(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
    Ok(uptake_tagger::read_weights(&bytes)?)
}

/// Keeps the weights as the best so far.
pub(crate) fn write_best(out: &Path, weights: &HashMap<String, Tensor>) -> Result<()> {
    save(weights, &out.join(FOLDER), BEST)
}

/// The best weights of the run.
pub(crate) fn best(out: &Path) -> Result<HashMap<String, Tensor>> {
    load(&out.join(FOLDER).join(BEST))
}

/// Removes the folder of a run that is finished.
pub(crate) fn remove(out: &Path) -> Result<()> {
    let path = out.join(FOLDER);
    std::fs::remove_dir_all(&path).map_err(|source| Error::File { action: "remove", path, source })
}
