//! The process of a step: started in a group of its own, ended with all that it started, and found again when the worker that
//! started it has died.
//!
//! Its outputs are files, not pipes, and a shell around it writes down how it ended. So it does not need the worker: when that
//! is killed it goes on, and the next worker on this machine waits for it, or reads how it has ended in the meantime.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::error::{Error, Result};

/// How long a process has to end once it was told to.
const GRACE: Duration = Duration::from_secs(20);
/// Between two looks at a process that another worker has started.
const PAUSE: Duration = Duration::from_millis(100);
/// Exit codes of a shell for what a signal has ended: this and the signal's number.
const SIGNALLED: i32 = 128;

/// Starts the program, and writes its exit code down in one step. Polite signals are for the program; it waits for that.
const SHELL: &str = r#"
    ended="$1"; shift
    trap : TERM INT
    "$@"
    code=$?
    echo "$code" > "$ended.part" && mv "$ended.part" "$ended"
    exit "$code"
"#;

/// What is started.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: PathBuf,
    /// Takes standard error.
    pub(crate) log: PathBuf,
    /// Takes standard output.
    pub(crate) output: PathBuf,
    /// Takes the exit code.
    pub(crate) ended: PathBuf,
}

/// A process under way.
#[derive(Debug)]
pub(crate) struct Process {
    /// None, where another worker has started it.
    child: Option<Child>,
    identity: Identity,
    ended: PathBuf,
}

/// How a process ended: its exit code, or nothing where a signal has ended it, or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) Option<i32>);

/// What tells a process from all others that ever were: the start of its machine, its number, and its own start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    boot: String,
    id: u32,
    start: String,
}

impl Process {
    /// Starts a process.
    pub(crate) async fn start(request: &Request) -> Result<Self> {
        let open = async |path: &Path, append: bool| {
            let mut options = tokio::fs::OpenOptions::new();
            let file = options.create(true).append(append).write(true).truncate(!append).open(path).await;
            Ok(file.map_err(Error::system("write", path))?.into_std().await)
        };
        if let Err(error) = tokio::fs::remove_file(&request.ended).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error::system("remove", &request.ended)(error));
        }
        let child = Command::new("sh")
            .args(["-c", SHELL, "step"])
            .arg(&request.ended)
            .arg(&request.program)
            .args(&request.arguments)
            .envs(request.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&request.directory)
            .stdin(Stdio::null())
            .stdout(open(&request.output, false).await?)
            .stderr(open(&request.log, true).await?)
            // A group of its own: what it starts ends with it.
            .process_group(0)
            .spawn()
            .map_err(Error::system("start", &request.program))?;
        let id = child.id().unwrap_or_default();
        // Where there is no /proc nobody can find it again, and it is started anew.
        let identity = Identity::of(id).unwrap_or(Identity { boot: String::new(), id, start: String::new() });
        Ok(Self { child: Some(child), identity, ended: request.ended.clone() })
    }

    /// What another worker has started on this machine and was written down as this, whether it still runs or not.
    pub(crate) fn find(identity: &str, ended: &Path) -> Option<Self> {
        let identity = Identity::read(identity).filter(|identity| Some(&identity.boot) == boot().as_ref())?;
        let found = Self { child: None, identity, ended: ended.to_owned() };
        (found.identity.is_alive() || ended.exists()).then_some(found)
    }

    /// What a later worker finds it by.
    pub(crate) fn identity(&self) -> String {
        let Identity { boot, id, start } = &self.identity;
        format!("{boot} {id} {start}")
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> Result<Ended> {
        if let Some(child) = &mut self.child {
            let status = child.wait().await.map_err(Error::system("wait for", "the process of a step"))?;
            return Ok(Ended(status.code().filter(|code| *code <= SIGNALLED)));
        }
        let mut pause = tokio::time::interval(PAUSE);
        while self.identity.is_alive() {
            let _ = pause.tick().await;
        }
        let code = std::fs::read_to_string(&self.ended).ok().and_then(|text| text.trim().parse().ok());
        Ok(Ended(code.filter(|code| *code <= SIGNALLED)))
    }

    /// Tells it to end, and ends it where it does not.
    pub(crate) async fn end(&mut self) {
        self.signal("TERM").await;
        if tokio::time::timeout(GRACE, self.wait()).await.is_err() {
            self.signal("KILL").await;
            let _ = self.wait().await;
        }
        // What it left behind in its group goes, too.
        self.signal("KILL").await;
    }

    /// Sends a signal to it and all that it started. The library cannot do so without unsafe code; the system's `kill` can.
    async fn signal(&self, name: &str) {
        let group = format!("-{}", self.identity.id);
        let told = Command::new("kill").args([&format!("-{name}"), "--", &group]).stderr(Stdio::null()).status().await;
        if let Err(error) = told {
            tracing::warn!(%error, "`kill` could not be started, so a process may go on");
        }
    }
}

impl Identity {
    fn of(id: u32) -> Option<Self> {
        Some(Self { boot: boot()?, id, start: start_of(id)? })
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (boot, id, start) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some(Self { boot: boot.to_owned(), id, start: start.to_owned() })
    }

    /// A process of the same number that began at another time is somebody else's.
    fn is_alive(&self) -> bool {
        start_of(self.id).as_ref() == Some(&self.start)
    }
}

/// Which start of which machine this is.
fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}

/// When a process began, in ticks since the machine did: field 22 of its line, counted behind the name in brackets. What has
/// ended and waits to be collected (a zombie) is no process any more.
fn start_of(id: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(directory: &Path, script: &str) -> Request {
        Request {
            program: "sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("WORD".to_owned(), "seven".to_owned())],
            directory: directory.to_owned(),
            log: directory.join("log"),
            output: directory.join("out"),
            ended: directory.join("ended"),
        }
    }

    fn read(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).unwrap_or_default()
    }

    async fn there(directory: &Path, name: &str) {
        while !directory.join(name).exists() {
            tokio::task::yield_now().await;
        }
    }

    /// Hangs for ever, deaf to the polite signal, and says when it does.
    const DEAF: &str =
        "mkfifo wait; sh -c 'trap \"\" TERM; echo $$ > pid; mv pid deaf; while :; do read x < wait; done'";

    #[tokio::test]
    async fn outputs_and_the_exit_code_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start(&request(directory.path(), "echo $WORD; echo oh >&2; exit 3")).await.unwrap();
        assert_eq!(process.wait().await.unwrap(), Ended(Some(3)));
        let read = |name| read(directory.path(), name);
        assert_eq!((read("out"), read("log"), read("ended")), ("seven\n".into(), "oh\n".into(), "3\n".into()));
        let mut killed = Process::start(&request(directory.path(), "kill -9 $$")).await.unwrap();
        assert_eq!(killed.wait().await.unwrap(), Ended(None));
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start(&request(directory.path(), &format!("{DEAF} & wait"))).await.unwrap();
        there(directory.path(), "deaf").await;
        let child: u32 = read(directory.path(), "deaf").trim().parse().unwrap();
        assert!(start_of(child).is_some());
        process.end().await;
        while start_of(child).is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn another_worker_waits_for_it_or_reads_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let script = "mkfifo go; echo > there; read x < go; exit 5";
        let first = Process::start(&request(directory.path(), script)).await.unwrap();
        there(directory.path(), "there").await;
        let (identity, ended) = (first.identity(), directory.path().join("ended"));
        let mut second = Process::find(&identity, &ended).unwrap();
        assert!(Process::find(&identity.replacen(&boot().unwrap(), "elsewhere", 1), &ended).is_none());
        std::fs::write(directory.path().join("go"), "\n").unwrap();
        assert_eq!(second.wait().await.unwrap(), Ended(Some(5)));
        drop(first);
        let mut third = Process::find(&identity, &ended).unwrap();
        assert_eq!(third.wait().await.unwrap(), Ended(Some(5)), "it has ended, and how is written down");
        std::fs::remove_file(&ended).unwrap();
        assert!(Process::find(&identity, &ended).is_none(), "then nobody knows, and it is started anew");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Request { program: "/no/such/program".into(), ..request(directory.path(), "") };
        assert_eq!(Process::start(&missing).await.unwrap().wait().await.unwrap(), Ended(Some(127)));
        assert!(read(directory.path(), "log").contains("/no/such/program"));
        let nowhere = Request { log: "/no/such/directory/log".into(), ..request(directory.path(), "") };
        assert!(Process::start(&nowhere).await.unwrap_err().to_string().starts_with("write `/no/such/directory/log`"));
    }
}
