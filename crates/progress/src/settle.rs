//! When a conversation has had its time: nothing is dropped for lateness, but gold waits.

use uptake_model::time::Micros;

/// The default window between the last event of a conversation and its settling: 72 hours.
pub const DEFAULT_WINDOW: Micros = 72 * 3_600 * 1_000_000;

/// When a conversation settles if nothing else arrives: its last event plus the window. Saturates at the ends of time.
pub fn settles_at(last_event: Micros, window: Micros) -> Micros {
    last_event.saturating_add(window)
}

/// Whether the watermark has passed the time of settling; without a watermark nothing is settled.
pub fn is_settled(watermark: Option<Micros>, settles_at: Micros) -> bool {
    watermark.is_some_and(|watermark| watermark > settles_at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_conversation_settles_when_the_watermark_is_past_and_not_at_the_time() {
        let at = settles_at(1_000, 500);
        assert_eq!(at, 1_500);
        assert!(!is_settled(None, at));
        assert!(!is_settled(Some(1_500), at));
        assert!(is_settled(Some(1_501), at));
        assert_eq!(settles_at(Micros::MAX, DEFAULT_WINDOW), Micros::MAX);
    }

    proptest! {
        #[test]
        fn settling_is_monotone(last in any::<i64>(), window in 0..i64::MAX, early in any::<i64>(), later in 0..i64::MAX) {
            let at = settles_at(last, window);
            prop_assert!(at >= last);
            let late = early.saturating_add(later);
            prop_assert!(!is_settled(Some(early), at) || is_settled(Some(late), at));
        }
    }
}
