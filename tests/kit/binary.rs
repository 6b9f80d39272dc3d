//! The real binary as a process of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::until;

/// Where the binary is: beside the test binary's directory.
///
/// # Panics
/// When it was not built; `tests/run` does that.
pub fn uptake() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let binary = test.ancestors().nth(2).expect("a target directory").join("uptake");
    assert!(
        binary.is_file(),
        "{} is missing: `cargo build --package uptake-app`, or run `tests/run`",
        binary.display()
    );
    binary
}

/// The binary with a lake and nothing of this process's settings.
pub fn command(lake: &Path) -> Command {
    command_in(lake.parent().unwrap_or(lake), lake)
}

/// The binary in a directory, with a lake by any name and nothing of this process's settings.
pub fn command_in(directory: &Path, lake: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(uptake());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("UPTAKE_")) {
        command.env_remove(name);
    }
    command.arg("--lake").arg(lake).current_dir(directory).stdin(Stdio::null());
    command
}

/// A running binary; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command whose output goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::create(log).expect("make a log");
        let child = command
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .expect("start uptake");
        Self { child, log: log.to_owned() }
    }

    /// What it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it runs.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("look at the process").is_none()
    }

    /// SIGKILL, and wait until it is gone.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn kill_hard(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("the end of the process");
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("run kill");
        assert!(sent.success(), "SIGTERM");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended `within` the time.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let log = self.log.clone();
        let child = &mut self.child;
        let what = format!("the end of uptake, which says in {}", log.display());
        until(&what, within, || child.try_wait().expect("look at the process"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
