//! A server of the tests, which ends when the test binary does, however that ends.

use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::wait::until;

/// Waits for the end of its input, then kills the server and removes its directory.
const SCRIPT: &str = r#"
    directory="$1"; shift
    "$@" > "$directory/log" 2>&1 &
    server=$!
    # Ends when the test binary does, or when the server ends by itself.
    while kill -0 "$server" 2>/dev/null; do read -r -t 1 _; [ $? -gt 128 ] || break; done
    kill "-${KEEPER_SIGNAL:-KILL}" "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    rm -rf "$directory"
"#;

/// A server under a shell that kills it, and removes its directory, when this end of the pipe closes.
#[derive(Debug)]
pub(crate) struct Keeper {
    shell: Child,
    _input: ChildStdin,
    directory: PathBuf,
}

impl Keeper {
    /// Starts a server; what it says goes to `log` in its directory.
    pub(crate) fn start<Argument: AsRef<OsStr>>(
        directory: &Path,
        command: impl IntoIterator<Item = Argument>,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut shell = Command::new("bash")
            .args(["-c", SCRIPT, "keeper"])
            .arg(directory)
            .args(command)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal must reach the keeper as the end of its input, not as a signal.
            .process_group(0)
            .spawn()
            .expect("start a server under bash");
        let input = shell.stdin.take().expect("the keeper's pipe");
        Self { shell, _input: input, directory: directory.to_owned() }
    }

    /// Waits until the server takes connections on a port of loopback.
    pub(crate) fn until_it_listens(&mut self, what: &str, port: u16) {
        until(&format!("{what} listens"), Duration::from_mins(2), || {
            let ended = self.shell.try_wait().expect("look at the keeper");
            let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "{what} ended: {}", log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }
}

/// A directory for a server, which its keeper removes.
pub(crate) fn directory(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(name).tempdir().expect("a temporary directory").keep()
}

/// Ports of loopback that nobody listens on.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    // All are held until all are found, so that no two are the same.
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port of loopback"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// What `tests/run` has fetched: the path that a variable names, else `name` in the cache.
pub(crate) fn fetched(variable: &str, name: &str) -> PathBuf {
    let cache = std::env::var("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cache")));
    std::env::var(variable)
        .map(PathBuf::from)
        .or_else(|_| cache.map(|cache| cache.join("uptake").join(name)))
        .expect("HOME, or the variable that names what was fetched")
}
