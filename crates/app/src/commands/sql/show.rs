//! Rows of an answer to an output, until they end, enough are shown, or somebody presses Ctrl-C.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use uptake_serve::format::{Format, TableStyle, writer};
use uptake_serve::{Answer, Error};

/// Rows to show at most; 0 for all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(pub(super) usize);

/// How showing ended.
#[derive(Debug)]
pub(super) enum Ended {
    Whole(Summary),
    Cancelled,
    /// The reader of our output has gone (`| head`).
    NobodyReads,
}

/// What was shown.
#[derive(Debug)]
pub(super) struct Summary {
    rows: usize,
    more: bool,
    took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        match (self.rows, self.more) {
            (rows, true) => {
                write!(formatter, "(the first {rows} rows in {seconds:.2} s; there are more, --limit-rows 0 shows all)")
            }
            (1, false) => write!(formatter, "(1 row in {seconds:.2} s)"),
            (rows, false) => write!(formatter, "({rows} rows in {seconds:.2} s)"),
        }
    }
}

/// Writes the rows as they come; `width` is that of the terminal they go to, if it is one.
///
/// # Errors
/// When the query fails on its way, or the output refuses the rows.
pub(super) async fn show(
    mut answer: Answer,
    format: Format,
    limit: Limit,
    width: Option<usize>,
    output: Box<dyn Write + Send>,
) -> Result<Ended, Error> {
    let begun = Instant::now();
    let gone = Arc::new(AtomicBool::new(false));
    let output = Watched { inner: output, gone: Arc::clone(&gone) };
    let style = TableStyle { width, ..TableStyle::default() };
    match write(&mut answer, format, style, limit, Box::new(output)).await {
        // Some formats turn the error of the output into text; the output itself remembers it.
        Err(_) if gone.load(Ordering::Relaxed) => Ok(Ended::NobodyReads),
        Err(error) => Err(error),
        Ok(None) => Ok(Ended::Cancelled),
        Ok(Some((rows, more))) => Ok(Ended::Whole(Summary { rows, more, took: begun.elapsed() })),
    }
}

/// Rows written and whether there are more; nothing when Ctrl-C came.
async fn write(
    answer: &mut Answer,
    format: Format,
    style: TableStyle,
    limit: Limit,
    output: Box<dyn Write + Send>,
) -> Result<Option<(usize, bool)>, Error> {
    let mut writer = writer(format, &answer.schema, style, output)?;
    let (mut rows, mut more) = (0, false);
    loop {
        let next = tokio::select! {
            next = answer.rows.next() => next,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        let Some(batch) = next else { break };
        let batch = batch.map_err(Error::from)?;
        let room = if limit.0 == 0 { usize::MAX } else { limit.0 - rows };
        more = batch.num_rows() > room;
        let batch = if more { batch.slice(0, room) } else { batch };
        rows += batch.num_rows();
        writer.write(&batch)?;
        if more {
            break;
        }
    }
    writer.finish()?;
    Ok(Some((rows, more)))
}

/// An output that remembers whether its reader has gone.
struct Watched {
    inner: Box<dyn Write + Send>,
    gone: Arc<AtomicBool>,
}

impl Watched {
    fn remember<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            self.gone.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        self.remember(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.remember(result)
    }
}

/// Columns of the terminal; nothing when standard output is none.
pub(super) fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(usize::from(columns).max(40))
}
