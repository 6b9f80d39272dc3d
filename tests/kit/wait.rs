//! Waiting for a condition, with a deadline. Tests never sleep for a time and hope.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `look` finds something, in async code.
///
/// # Panics
/// When it has found nothing `within` the time.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    let mut tick = tokio::time::interval(PAUSE);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        tick.tick().await;
    }
}

/// Waits until `look` finds something, on a thread of its own.
///
/// # Panics
/// When it has found nothing `within` the time.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        std::thread::park_timeout(PAUSE);
    }
}
