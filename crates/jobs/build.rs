//! Lists the files of `pipelines/` as constants, so that the binary carries them and a change of one rebuilds it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("../../pipelines");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &root, &mut files)?;
    files.sort();
    let mut code = String::from("pub(crate) const FILES: &[(&str, &str)] = &[\n");
    for name in files {
        // Where the repository lies is left to the compiler: a build directory may serve several checkouts.
        let path = format!("/../../pipelines/{name}");
        writeln!(code, "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),")
            .map_err(io::Error::other)?;
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?).join("embedded.rs");
    fs::write(out, code)
}

/// Every `.sql` and `.toml` file below `directory`, named by its path from `root`; cases stay out of the binary.
fn collect(root: &Path, directory: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "cases") {
                println!("cargo::rerun-if-changed={}", path.display());
                collect(root, &path, files)?;
            }
            continue;
        }
        if path.extension().is_some_and(|extension| extension == "sql" || extension == "toml") {
            let parts = path.strip_prefix(root).map_err(io::Error::other)?.components();
            let name: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
            files.push(name.join("/"));
        }
    }
    Ok(())
}
