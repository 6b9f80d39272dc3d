//! The session: a line editor with history, completion and statements over several lines.

use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Prompt, PromptEditMode,
    PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal, default_emacs_keybindings,
};
use uptake_serve::Session;
use uptake_serve::format::Format;

use super::complete::{Statements, Words};
use super::describe;
use super::show::{Ended, Limit, show, width};

/// Lines that the history keeps.
const HISTORY: usize = 5_000;

struct Marks;

impl Prompt for Marks {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("uptake")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("     > ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("history: {} ", search.term))
    }
}

/// Runs the session until the user leaves.
///
/// # Errors
/// When the terminal fails; a query that fails is told and the session goes on.
pub(super) async fn run(session: Session, format: Format, limit: Limit) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "Tables: \\dt   help: \\?   leave: \\q   a query ends with ;")?;
    let mut editor = editor(&session);
    loop {
        // The editor blocks on the keyboard.
        let (returned, signal) = tokio::task::spawn_blocking(move || {
            let signal = editor.read_line(&Marks);
            (editor, signal)
        })
        .await?;
        editor = returned;
        match signal.context("read a line from the terminal")? {
            Signal::CtrlD => return Ok(ExitCode::SUCCESS),
            Signal::CtrlC => {}
            Signal::Success(text) if text.trim().is_empty() => {}
            Signal::Success(text) => {
                if let Some(meta) = describe::meta(&text) {
                    if !describe::answer(&meta, &session, &mut stdout)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                } else {
                    answer(&session, &text, format, limit, &mut stdout).await?;
                }
            }
        }
    }
}

async fn answer(
    session: &Session,
    text: &str,
    format: Format,
    limit: Limit,
    stdout: &mut impl Write,
) -> anyhow::Result<()> {
    let statements = match session.parse(text) {
        Ok(statements) => statements,
        Err(error) => return told(&error, stdout),
    };
    for statement in &statements {
        // Planning opens tables, which may take a while on a far store: it can be cancelled too.
        let started = tokio::select! {
            started = session.run(statement) => started,
            _ = tokio::signal::ctrl_c() => {
                writeln!(stdout, "cancelled")?;
                return Ok(());
            }
        };
        let ended = match started {
            Ok(answer) => show(answer, format, limit, width(), Box::new(std::io::stdout())).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(Ended::Whole(summary)) => writeln!(stdout, "{summary}\n")?,
            Ok(Ended::Cancelled) => writeln!(stdout, "\ncancelled")?,
            Ok(Ended::NobodyReads) => return Ok(()),
            Err(error) => return told(&error, stdout),
        }
    }
    Ok(())
}

fn told(error: &uptake_serve::Error, stdout: &mut impl Write) -> anyhow::Result<()> {
    writeln!(stdout, "error: {error}")?;
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        writeln!(stdout, "  because: {error}")?;
        cause = error.source();
    }
    Ok(())
}

fn editor(session: &Session) -> Reedline {
    let menu = ColumnarMenu::default().with_name("completion").with_columns(2);
    let mut keys = default_emacs_keybindings();
    keys.add_binding(
        KeyModifiers::NONE,
        KeyCode::Tab,
        ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu("completion".to_owned()), ReedlineEvent::MenuNext]),
    );
    let editor = Reedline::create()
        .with_completer(Box::new(Words::of(session)))
        .with_validator(Box::new(Statements))
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_edit_mode(Box::new(Emacs::new(keys)));
    let history = history_file().and_then(|path| {
        std::fs::create_dir_all(path.parent()?).ok()?;
        FileBackedHistory::with_file(HISTORY, path).ok()
    });
    match history {
        Some(history) => editor.with_history(Box::new(history)),
        None => editor,
    }
}

/// `$XDG_STATE_HOME/uptake/sql_history`, or below the home directory.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("uptake").join("sql_history"))
}
