//! A circuit breaker: when a large share of the last records is bad, the contract is broken, not the records.

use std::collections::VecDeque;

/// What the breaker says after a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Go on.
    Closed,
    /// Stop: `bad` of the last `seen` records were refused.
    Open {
        /// Refused records in the window.
        bad: usize,
        /// Records in the window.
        seen: usize,
    },
}

/// Opens when more than a share of a full window of records is bad; stays open.
#[derive(Debug, Clone)]
pub struct Breaker {
    window: usize,
    share: f64,
    recent: VecDeque<bool>,
    bad: usize,
    open: bool,
}

impl Breaker {
    /// A breaker over the last `window` records (at least one) that opens above `share` (0 to 1). A share of one or more
    /// never opens: every record may be bad.
    pub fn new(window: usize, share: f64) -> Self {
        let window = window.max(1);
        Self { window, share, recent: VecDeque::with_capacity(window.min(4_096)), bad: 0, open: false }
    }

    /// Takes note of one record. Nothing is said before the window is full: the first records of a topic decide nothing.
    pub fn record(&mut self, bad: bool) -> State {
        if self.recent.len() == self.window && self.recent.pop_front() == Some(true) {
            self.bad -= 1;
        }
        self.recent.push_back(bad);
        self.bad += usize::from(bad);
        if self.recent.len() == self.window && self.bad as f64 > self.share * self.window as f64 {
            self.open = true;
        }
        self.state()
    }

    /// What the breaker says now.
    pub fn state(&self) -> State {
        if self.open { State::Open { bad: self.bad, seen: self.recent.len() } } else { State::Closed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_bad_records_pass_and_a_broken_topic_stops() {
        let mut breaker = Breaker::new(10, 0.5);
        for number in 0..100 {
            assert_eq!(breaker.record(number % 2 == 0), State::Closed, "{number}");
        }
        assert_eq!(breaker.record(true), State::Closed);
        assert_eq!(breaker.record(true), State::Open { bad: 6, seen: 10 });
        assert!(matches!(breaker.record(false), State::Open { .. }), "stays open");
    }

    proptest! {
        #[test]
        fn it_opens_exactly_when_a_full_window_is_over_the_share(
            window in 1..20_usize, percent in 0..=100_u32, records in prop::collection::vec(any::<bool>(), 0..80)
        ) {
            let share = f64::from(percent) / 100.0;
            let mut breaker = Breaker::new(window, share);
            for bad in &records {
                breaker.record(*bad);
            }
            let over = records
                .windows(window)
                .any(|part| part.iter().filter(|bad| **bad).count() as f64 > share * window as f64);
            prop_assert_eq!(breaker.state() != State::Closed, over);
        }
    }
}
