//! What a killed run leaves, so that it loses little: weights, moments and the place in the data, below
//! `OUT/checkpoint`; and the best weights so far.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Epoch, Options};
use crate::adamw::AdamW;
use crate::average::Average;
use crate::encoder::TrainableEncoder;
use crate::error::{Error, Result};

/// Name of the folder in the model's directory.
pub(super) const FOLDER: &str = "checkpoint";
const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress.json";
const BEST: &str = "best.safetensors";

/// How far a run has come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Of options and data: a checkpoint is for the same run only.
    pub(super) run: String,
    /// Passes done.
    pub(super) epoch: usize,
    /// Batches done of the next pass.
    pub(super) batch: usize,
    /// Sum of their losses.
    pub(super) loss: f64,
    /// Steps done in all.
    pub(super) steps: usize,
    /// Passes since the best one.
    pub(super) stale: usize,
    /// Passes as measured.
    pub(super) history: Vec<Epoch>,
}

/// What tells a run from others: its options, and what its data say.
pub(super) fn fingerprint(options: &Options, data: &str) -> Result<String> {
    let json = serde_json::to_vec(&(options, data)).map_err(|error| Error::Bug(error.to_string()))?;
    Ok(format!("{:x}", Sha256::digest(json)))
}

fn folder(options: &Options) -> PathBuf {
    options.out.join(FOLDER)
}

/// Writes a checkpoint. The state goes before the progress that tells of it, each under another name first.
pub(super) fn write(
    options: &Options,
    encoder: &TrainableEncoder,
    optimiser: &AdamW,
    average: Option<&Average>,
    progress: &Progress,
) -> Result<()> {
    let folder = folder(options);
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
pub(super) fn take_up(
    options: &Options,
    run: String,
    encoder: &TrainableEncoder,
    optimiser: &mut AdamW,
    average: Option<&mut Average>,
) -> Result<Progress> {
    let path = folder(options).join(PROGRESS);
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Progress { run, ..Progress::default() }),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    let other = |reason: &str| {
        Err(Error::Invalid(format!("`{}` {reason}: remove the folder or name another", folder(options).display())))
    };
    let Ok(progress) = serde_json::from_slice::<Progress>(&json) else {
        return other("holds a checkpoint that cannot be read");
    };
    if progress.run != run {
        return other("holds the checkpoint of a run with other options or other data");
    }
    let mut state = load(&folder(options).join(STATE))?;
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
pub(super) fn write_best(out: &Path, weights: &HashMap<String, Tensor>) -> Result<()> {
    save(weights, &out.join(FOLDER), BEST)
}

/// The best weights of the run.
pub(super) fn best(out: &Path) -> Result<HashMap<String, Tensor>> {
    load(&out.join(FOLDER).join(BEST))
}

/// Removes the folder of a run that is finished.
pub(super) fn remove(out: &Path) -> Result<()> {
    let path = out.join(FOLDER);
    std::fs::remove_dir_all(&path).map_err(|source| Error::File { action: "remove", path, source })
}
