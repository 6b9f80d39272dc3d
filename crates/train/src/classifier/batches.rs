//! The order of examples in a pass: shuffled, yet batched by like length, since padding costs as much as text.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Batches whose examples are sorted together by length.
const WINDOW: usize = 40;

/// What decides the order.
pub(super) struct Order {
    pub(super) seed: u64,
    pub(super) epoch: usize,
    /// Examples of a batch at most.
    pub(super) examples: usize,
    /// Tokens of a batch at most, padding included.
    pub(super) tokens: usize,
}

impl Order {
    /// Batches of `examples`, each of which has `length(example)` tokens.
    pub(super) fn batches(&self, examples: &[usize], length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        // Streams of their own: another pass is another order, and dropout (streams by step) is neither.
        random.set_stream(u64::MAX - self.epoch as u64);
        let mut shuffled = examples.to_vec();
        shuffled.shuffle(&mut random);
        let mut batches = Vec::new();
        for window in shuffled.chunks_mut(self.examples * WINDOW) {
            window.sort_by_key(|example| length(*example));
            let mut batch: Vec<usize> = Vec::new();
            for &example in window.iter() {
                // Sorted: the newest is the longest.
                let full = batch.len() == self.examples || (batch.len() + 1) * length(example) > self.tokens;
                if full && !batch.is_empty() {
                    batches.push(std::mem::take(&mut batch));
                }
                batch.push(example);
            }
            batches.push(batch);
        }
        batches.shuffle(&mut random);
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(example: usize) -> usize {
        5 + example * 7 % 124
    }

    #[test]
    fn each_example_comes_once_in_batches_within_bounds() {
        let order = Order { seed: 1, epoch: 0, examples: 32, tokens: 2048 };
        let examples: Vec<usize> = (100..5000).collect();
        let batches = order.batches(&examples, length);
        let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, examples);
        for batch in &batches {
            let longest = batch.iter().map(|example| length(*example)).max().unwrap();
            assert!(batch.len() <= 32 && batch.len() * longest <= 2048);
        }
        let (mut real, mut padded) = (0, 0);
        for batch in &batches {
            real += batch.iter().map(|example| length(*example)).sum::<usize>();
            padded += batch.len() * batch.iter().map(|example| length(*example)).max().unwrap();
        }
        assert!(padded * 100 < real * 110, "{padded} padded tokens for {real}");
    }

    #[test]
    fn the_order_is_the_seeds_and_the_epochs() {
        let order = |seed, epoch| {
            Order { seed, epoch, examples: 8, tokens: 2048 }.batches(&(0..500).collect::<Vec<_>>(), length)
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }
}
