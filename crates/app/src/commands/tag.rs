//! `uptake tag`: signals for a file of conversations, and what moved them.

mod explain;
mod page;
mod record;
mod shown;
mod text;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::ProgressBar;
use uptake_tagger::lines::{self, BadLines, Event};
use uptake_tagger::{Error, Options, Tagger};

use crate::context::Context;
use crate::progress;
use explain::relation;

/// Scores how users took the assistant's answers, for a file of conversations.
///
/// In: JSON lines `{"conversation_id", "messages": [{"role", "content"}, …]}`, plain, gzip'd or zstd. Out: a line for
/// each user turn that directly follows an assistant turn, in the order of the input.
#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    /// Conversations; `-` for standard input.
    file: PathBuf,

    /// Where the lines go; standard output when none is named. A file appears under this name when it is whole.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Directory of another model than the one in this program.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Count and report lines that are no conversation, instead of stopping at the first.
    #[arg(long)]
    skip_bad: bool,

    /// Worker threads; one per core when 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,

    /// Show which words moved each label that fires: the mean of what its log-odds lose without a word, and gain by it alone.
    /// As text where neither --html nor -o says otherwise; -o is then for lines of JSON with spans and effects.
    #[arg(long)]
    explain: bool,

    /// With --explain: these labels (or sat, dsat), whether they fire or not.
    #[arg(long, requires = "explain", value_delimiter = ',', value_name = "LABEL,…", value_parser = explain::output)]
    labels: Vec<usize>,

    /// With --explain: a page that needs nothing else. It shows what was said: keep it as close as the chats.
    #[arg(long, requires = "explain", value_name = "FILE")]
    html: Option<PathBuf>,

    /// With --explain: most forward passes for a follow-up; where they do not reach, several words are taken at once.
    #[arg(long, requires = "explain", default_value_t = explain::PASSES, value_name = "N", value_parser = explain::passes)]
    passes: usize,
}

/// Exit code for input that is refused.
pub(super) const REFUSED: u8 = 3;

impl Tag {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let terminal = context.terminal;
        // Tagging takes processor time and blocks on files: it has no business on an async thread.
        tokio::task::spawn_blocking(move || self.tag(terminal)).await?
    }

    fn tag(&self, terminal: bool) -> anyhow::Result<ExitCode> {
        let options = Options { threads: self.threads, ..Options::default() };
        let tagger = match &self.model {
            Some(directory) => Tagger::open(directory, options)
                .with_context(|| format!("load the tagger in `{}`", directory.display()))?,
            None => Tagger::embedded(options).context("load the tagger of this program")?,
        };
        let (input, bar) = open(&self.file, terminal)?;
        bar.set_message("tag");
        let result = match &self.output {
            _ if self.explain => self.explain(&tagger, input, &bar),
            Some(path) => whole(path, |output| self.stream(&tagger, input, output, &bar)),
            None => self.stream(&tagger, input, &mut io::stdout().lock(), &bar),
        };
        bar.finish_and_clear();
        let mut stderr = io::stderr().lock();
        match result {
            Ok(done) => {
                let what = if self.explain { "explained" } else { "tagged" };
                writeln!(
                    stderr,
                    "{} follow-ups in {} conversations {what} by {}; {} lines skipped",
                    done.follow_ups,
                    done.conversations,
                    tagger.version(),
                    done.skipped
                )?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) if matches!(error.downcast_ref(), Some(Error::Line { .. })) => {
                writeln!(stderr, "error: {}: {error}", self.file.display())?;
                writeln!(stderr, "  hint: --skip-bad passes over such lines and reports them")?;
                Ok(ExitCode::from(REFUSED))
            }
            // Whoever reads the standard output has seen enough, as `head` does.
            Err(error) if explain::reader_left(&error) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Err(error) => Err(error.context(format!("tag `{}`", self.file.display()))),
        }
    }

    fn stream(
        &self,
        tagger: &Tagger,
        input: Box<dyn BufRead>,
        output: &mut dyn Write,
        bar: &ProgressBar,
    ) -> anyhow::Result<lines::Progress> {
        Ok(lines::tag_lines(tagger, input, output, self.bad_lines(), |event| told(&event, bar))?)
    }

    const fn bad_lines(&self) -> BadLines {
        if self.skip_bad { BadLines::Skip } else { BadLines::Stop }
    }
}

/// Shows how far a stream is.
fn told(event: &Event<'_>, bar: &ProgressBar) {
    match event {
        Event::Progress(done) => bar.set_message(format!("tag ({} follow-ups)", done.follow_ups)),
        // Where standard error is gone there is nobody to tell; the count at the end stands.
        Event::Skipped(error) => {
            let _ = progress::suspended(|| writeln!(io::stderr(), "skipped {error}"));
        }
    }
}

/// Opens a file, plain, gzip'd or zstd (told by its first bytes), with a bar over the bytes that are read of it.
pub(super) fn open(path: &Path, terminal: bool) -> anyhow::Result<(Box<dyn BufRead>, ProgressBar)> {
    let (raw, total): (Box<dyn Read>, Option<u64>) = if path == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("open `{}`", path.display()))?;
        anyhow::ensure!(!metadata.is_dir(), "`{}` is a directory, name a file in it", path.display());
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let bar = progress::bar(terminal, total, "bytes");
    let mut raw = BufReader::with_capacity(1 << 16, bar.wrap_read(raw));
    let first = raw.fill_buf().with_context(|| format!("read `{}`", path.display()))?;
    let input: Box<dyn BufRead> = if first.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw)))
    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::new(zstd::Decoder::with_buffer(raw)?))
    } else {
        Box::new(raw)
    };
    Ok((input, bar))
}

/// Writes a file under another name first: one that is there is whole. A pipe or device is written as it is.
pub(super) fn whole<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let create = |path: &Path| File::create(path).with_context(|| format!("create `{}`", path.display()));
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return write(&mut BufWriter::new(create(path)?));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = BufWriter::new(create(&part)?);
    let written = write(&mut file).and_then(|done| {
        file.flush().with_context(|| format!("write `{}`", part.display()))?;
        std::fs::rename(&part, path).with_context(|| format!("write `{}`", path.display()))?;
        Ok(done)
    });
    if written.is_err() {
        // The error itself is what the user must see; a part that cannot be removed says so by its name.
        let _ = std::fs::remove_file(&part);
    }
    written
}
