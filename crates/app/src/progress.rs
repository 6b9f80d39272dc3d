//! Progress on a terminal; nothing elsewhere, where the logs say how far things are.

use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// All bars of this process, so that log lines and bars do not write through each other.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes to the terminal while the bars are out of the way.
pub(crate) fn suspended<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// A bar over `total` things of a kind (`lines`, `bytes`, `days`), or a spinner where the total is unknown.
pub(crate) fn bar(terminal: bool, total: Option<u64>, what: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if !terminal {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        return bar;
    }
    let bar = BARS.add(bar);
    let template = if total.is_some() {
        "{msg:28} [{bar:30}] {human_pos}/{human_len} {prefix} {per_sec} {eta}"
    } else {
        "{msg:28} {spinner} {human_pos} {prefix} {per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉ "));
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
