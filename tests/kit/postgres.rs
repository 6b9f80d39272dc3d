//! A real Postgres on loopback, one for the whole test binary, over a temporary directory.
//!
//! `UPTAKE_POSTGRES` names the directory of its programs; else `initdb` is looked for on the path, and where Debian puts it.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::keeper::{Keeper, directory, free_ports};

/// The server of this test binary, started at the first use.
static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// Every test has a database of its own.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Postgres refuses to run as root; this user owns nothing anywhere.
const NOBODY: u32 = 65_534;

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    port: u16,
    _keeper: Keeper,
}

/// The server that all tests of this binary share.
///
/// # Panics
/// When it cannot be started; the message says what is missing.
pub fn shared() -> &'static Postgres {
    &SHARED
}

impl Postgres {
    fn start() -> Self {
        let programs = programs();
        let directory = directory("uptake-postgres-");
        let root = runs_as_root();
        if root {
            chown(&directory, Some(NOBODY), Some(NOBODY)).expect("give the directory away");
        }
        let data = directory.join("data");
        let words = |program: &str, arguments: &[&str]| -> Vec<String> {
            let drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
            let program = programs.join(program).to_string_lossy().into_owned();
            let drop = drop.iter().filter(|_| root).map(|&word| word.to_owned());
            drop.chain([program]).chain(arguments.iter().map(|&word| word.to_owned())).collect()
        };
        let place = data.to_string_lossy();
        let words_of_initdb =
            words("initdb", &["-D", &place, "-A", "trust", "-U", "uptake", "-E", "UTF8", "--no-sync"]);
        let (program, arguments) = words_of_initdb.split_first().expect("a program");
        let made = Command::new(program).args(arguments).current_dir(&directory).output().expect("start initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let [port] = free_ports();
        let (port_text, sockets) = (port.to_string(), directory.to_string_lossy());
        let server = words(
            "postgres",
            &[
                "-D",
                &place,
                "-p",
                &port_text,
                "-h",
                "127.0.0.1",
                "-k",
                &sockets,
                "-c",
                "fsync=off",
                // Nothing is left in /dev/shm, however it ends.
                "-c",
                "dynamic_shared_memory_type=mmap",
            ],
        );
        let mut keeper = Keeper::start(&directory, &server, &[("KEEPER_SIGNAL", "QUIT")]);
        keeper.until_it_listens("Postgres", port);
        let server = Self { programs, port, _keeper: keeper };
        // It listens a moment before it takes work.
        crate::wait::until("Postgres is ready", std::time::Duration::from_mins(1), || {
            server.program("pg_isready", &["-q"]).status().is_ok_and(|status| status.success()).then_some(())
        });
        server
    }

    /// A client program with the server's address.
    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(name));
        let _ = command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "uptake"]).args(arguments);
        command
    }

    /// The address of a new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let made = self.program("createdb", &[&name]).output().expect("start createdb");
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://uptake@127.0.0.1:{}/{name}", self.port)
    }
}

/// Whether this process may give files away: the owner of its own directory in /proc tells, without a system call of ours.
fn runs_as_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Where the server's programs are.
fn programs() -> PathBuf {
    if let Ok(named) = std::env::var("UPTAKE_POSTGRES") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find_map(|directory| {
        // The path may hold links to some of the programs; all of them are where those lead.
        let found = std::fs::canonicalize(directory.join("initdb")).ok()?;
        found.parent().map(Path::to_owned)
    });
    let debian = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
        found.retain(|programs| programs.join("initdb").exists());
        found.sort();
        found.pop()
    };
    on_path
        .or_else(debian)
        .expect("Postgres: install it (Debian: postgresql), or let UPTAKE_POSTGRES name its programs")
}
