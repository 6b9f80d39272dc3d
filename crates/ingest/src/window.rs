//! The last event ids of one partition, so that producers' copies are dropped early and reused ids are caught.
//!
//! A bounded, unstored window: what slips through after a restart the jobs find by event id.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

/// How an event stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Its id is new in the window.
    New,
    /// Its id was seen with the same content.
    Copy,
    /// Its id was seen with another content.
    Reused,
}

/// The last event ids of one partition.
#[derive(Debug)]
pub(crate) struct Window {
    size: usize,
    contents: HashMap<u128, u128>,
    order: VecDeque<u128>,
}

impl Window {
    /// A window over the last `size` ids; zero switches it off.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, contents: HashMap::new(), order: VecDeque::new() }
    }

    /// Notes an event by its id and the hash of its content.
    pub(crate) fn note(&mut self, event_id: &str, content_hash: &str) -> Seen {
        if self.size == 0 {
            return Seen::New;
        }
        let id = digest(event_id);
        let content = digest(content_hash);
        if let Some(before) = self.contents.get(&id) {
            return if *before == content { Seen::Copy } else { Seen::Reused };
        }
        if self.order.len() == self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.contents.remove(&oldest);
        }
        self.order.push_back(id);
        self.contents.insert(id, content);
        Seen::New
    }
}

/// 128 bits of SHA-256: ids come from outside, so a weak hash would let two of them be made to collide.
fn digest(text: &str) -> u128 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).fold(0, |value, byte| value << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_reuse_are_told_apart_within_the_window() {
        let mut window = Window::new(2);
        assert_eq!(window.note("a", "1"), Seen::New);
        assert_eq!(window.note("a", "1"), Seen::Copy);
        assert_eq!(window.note("a", "2"), Seen::Reused);
        assert_eq!(window.note("b", "1"), Seen::New);
        assert_eq!(window.note("c", "1"), Seen::New);
        assert_eq!(window.note("a", "2"), Seen::New, "forgotten: the window holds two");
        assert_eq!(window.contents.len(), 2);
    }

    #[test]
    fn a_window_of_none_is_off() {
        let mut window = Window::new(0);
        assert_eq!((window.note("a", "1"), window.note("a", "1")), (Seen::New, Seen::New));
    }
}
