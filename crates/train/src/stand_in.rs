//! A decoder that stands in where nobody names one: random weights, a vocabulary of bytes. What it says means nothing; that it
//! can be trained, asked, judged and refused is all that it shows.

use std::path::Path;

use crate::error::{Error, Result};

/// The files of the stand-in: the Llama layout, two layers of width 32.
const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../fixtures/policy/llama/config.json")),
    ("model.safetensors", include_bytes!("../fixtures/policy/llama/model.safetensors")),
    ("tokenizer.json", include_bytes!("../fixtures/policy/llama/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../fixtures/policy/llama/tokenizer_config.json")),
];

/// Writes it into a directory, as Hugging Face lays models out.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    let failed = |path: &Path, source| Error::File { action: "write", path: path.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(|source| failed(directory, source))?;
    for (name, bytes) in FILES {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(|source| failed(&path, source))?;
    }
    Ok(())
}
