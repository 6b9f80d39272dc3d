//! Lists the weights of the model in `model/`, one file or several, for the program to carry.

use std::fmt::Write as _;
use std::path::Path;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let model = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("model");
    let mut weights = Vec::new();
    for entry in std::fs::read_dir(&model)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            weights.push(path);
        }
    }
    weights.sort();
    if weights.is_empty() {
        return Err(format!("{} holds no safetensors file", model.display()).into());
    }
    let mut list = format!("pub(crate) static WEIGHTS: [&[u8]; {}] = [\n", weights.len());
    for path in weights {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("the name of a weights file is not UTF-8")?;
        // Where the repository lies is left to the compiler: a build directory may serve several checkouts.
        writeln!(list, "    include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?})),", format!("/model/{name}"))?;
    }
    list.push_str("];\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("weights.rs"), list)?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=model");
    Ok(())
}
