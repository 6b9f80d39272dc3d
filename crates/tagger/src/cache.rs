//! Logits of short inputs seen before: "thanks", "continue" and the like come again and again.
//!
//! Two generations of a map stand in for a least-recently-used list: when the young one is full it becomes the old one,
//! and what is found in the old one moves to the young. Exact: the key is the whole input, context included.

use std::collections::HashMap;
use std::mem;

use uptake_model::labels::OUTPUTS;

use crate::input::Input;

/// Inputs above this many tokens hardly ever repeat, and are not kept.
const LONGEST: usize = 48;

/// A bounded map from input to logits.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Entries per generation; 0 turns the cache off.
    capacity: usize,
    young: HashMap<Input, [f32; OUTPUTS]>,
    old: HashMap<Input, [f32; OUTPUTS]>,
}

impl Cache {
    /// Keeps between `capacity / 2` and `capacity` of the inputs used last.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity / 2, young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, input: &Input) -> Option<[f32; OUTPUTS]> {
        if let Some(logits) = self.young.get(input) {
            return Some(*logits);
        }
        let (input, logits) = self.old.remove_entry(input)?;
        self.insert(input, logits);
        Some(logits)
    }

    pub(crate) fn put(&mut self, input: &Input, logits: [f32; OUTPUTS]) {
        if input.tokens.len() <= LONGEST {
            self.insert(input.clone(), logits);
        }
    }

    fn insert(&mut self, input: Input, logits: [f32; OUTPUTS]) {
        if self.capacity == 0 {
            return;
        }
        if self.young.len() >= self.capacity {
            self.old = mem::take(&mut self.young);
        }
        let _ = self.young.insert(input, logits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(token: u32) -> Input {
        Input { tokens: vec![token; 3], first_segment: 2 }
    }

    #[test]
    fn what_is_used_stays_and_the_size_is_bounded() {
        let mut cache = Cache::new(20);
        for token in 0..1000 {
            cache.put(&input(token), [1.0; OUTPUTS]);
            let _ = cache.get(&input(0));
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert!(cache.get(&input(0)).is_some());
        assert!(cache.get(&input(999)).is_some());
        assert!(cache.get(&input(500)).is_none());
    }

    #[test]
    fn the_context_is_part_of_the_key() {
        let mut cache = Cache::new(20);
        cache.put(&input(1), [1.0; OUTPUTS]);
        assert!(cache.get(&Input { tokens: vec![1; 3], first_segment: 1 }).is_none());
    }

    #[test]
    fn long_inputs_and_a_capacity_of_zero_keep_nothing() {
        let long = Input { tokens: vec![1; LONGEST + 1], first_segment: 2 };
        let mut cache = Cache::new(20);
        cache.put(&long, [1.0; OUTPUTS]);
        assert!(cache.get(&long).is_none());
        let mut off = Cache::new(0);
        off.put(&input(1), [1.0; OUTPUTS]);
        assert!(off.get(&input(1)).is_none());
    }
}
