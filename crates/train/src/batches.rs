//! The order of examples in a pass: shuffled, yet batched by like length, since padding costs as much as text.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Batches whose examples are sorted together by length.
const WINDOW: usize = 40;

/// What decides the order.
pub(crate) struct Order {
    pub(crate) seed: u64,
    pub(crate) epoch: usize,
    /// Examples of a batch at most.
    pub(crate) examples: usize,
    /// Tokens of a batch at most, padding included.
    pub(crate) tokens: usize,
}

impl Order {
    /// Batches of `examples`, each of which has `length(example)` tokens.
    pub(crate) fn batches(&self, examples: &[usize], length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
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

/// Examples of weak evidence for one pass: at most `most` of those in `classes` (examples of like outcome), as even over
/// the classes as they allow, so that the common outcome does not drown the others. Another pass is another draw.
pub(crate) fn draw(classes: &[Vec<usize>], most: usize, seed: u64, epoch: usize, file: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream((1 << 62) + ((epoch as u64) << 16) + file as u64);
    let mut by_size: Vec<Vec<usize>> = classes.to_vec();
    by_size.sort_by_key(Vec::len);
    let mut drawn = Vec::new();
    let count = by_size.len();
    for (index, mut class) in by_size.into_iter().enumerate() {
        // What a small class leaves goes to the larger ones.
        let share = (most - drawn.len()) / (count - index);
        class.shuffle(&mut random);
        class.truncate(share);
        drawn.extend(class);
    }
    drawn
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
    fn a_draw_is_even_bounded_and_another_in_each_pass() {
        let classes = [(0..10).collect::<Vec<usize>>(), (100..200).collect(), (1000..5000).collect()];
        let draw = |most, epoch| draw(&classes, most, 1, epoch, 0);
        let count = |drawn: &[usize]| {
            [0..10, 100..200, 1000..5000].map(|class| drawn.iter().filter(|index| class.contains(*index)).count())
        };
        assert_eq!(count(&draw(90, 0)), [10, 40, 40]);
        assert_eq!(count(&draw(300, 0)), [10, 100, 190]);
        assert_eq!(count(&draw(100_000, 0)), [10, 100, 4000]);
        assert!(draw(0, 0).is_empty());
        assert_eq!(draw(90, 2), draw(90, 2));
        assert_ne!(draw(90, 2), draw(90, 3));
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
