//! When to ask again: exponential backoff with jitter, and what the server itself asks for.

use std::time::Duration;

/// How often and how fast a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Repetitions after the first attempt.
    pub retries: u32,
    /// The first wait, doubled with every further one.
    pub first: Duration,
    /// No wait of our own is longer.
    pub longest: Duration,
    /// A server that wants to be left alone for longer than this is not waited for.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_mins(1),
            patience: Duration::from_mins(10),
        }
    }
}

impl RetryPolicy {
    /// How long to wait before repetition number `repetition` (from 0), or nothing when it is time to give up.
    ///
    /// Half of the backoff is certain, half is drawn (`draw` in 0..1), so that clients that failed together do not come
    /// back together. What the server `asked` for is a lower bound, with a drawn part on top of it for the same reason.
    #[must_use]
    pub fn wait(&self, repetition: u32, asked: Option<Duration>, draw: f64) -> Option<Duration> {
        if repetition >= self.retries || asked.is_some_and(|asked| asked > self.patience) {
            return None;
        }
        let backoff = self.first.saturating_mul(1_u32.checked_shl(repetition).unwrap_or(u32::MAX)).min(self.longest);
        let own = backoff.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0);
        let asked = asked.map(|asked| asked + self.first.min(asked).mul_f64(draw.clamp(0.0, 1.0) / 4.0));
        Some(asked.map_or(own, |asked| asked.max(own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        retries: 5,
        first: Duration::from_secs(1),
        longest: Duration::from_secs(6),
        patience: Duration::from_secs(100),
    };

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let waits: Vec<Option<u64>> =
            (0..6).map(|repetition| POLICY.wait(repetition, None, 1.0).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(6), Some(6), None]);
        assert_eq!(POLICY.wait(1, None, 0.0), Some(Duration::from_secs(1)), "half of it is certain");
        let endless = RetryPolicy { retries: u32::MAX, ..POLICY };
        assert_eq!(endless.wait(4_000, None, 1.0), Some(Duration::from_secs(6)));
    }

    #[test]
    fn the_server_is_waited_for_within_reason() {
        let asked = |seconds, draw| POLICY.wait(0, Some(Duration::from_secs(seconds)), draw);
        assert_eq!(asked(30, 0.0), Some(Duration::from_secs(30)));
        assert_eq!(asked(30, 1.0), Some(Duration::from_millis(30_250)));
        assert_eq!(asked(0, 1.0), Some(Duration::from_secs(1)), "its zero is no reason to hammer it");
        assert_eq!(asked(101, 0.0), None);
    }
}
