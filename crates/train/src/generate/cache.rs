//! Keys and values of the tokens that a sequence has had, and attention over them.
//!
//! Each sequence has its own cache, so there is nothing to pad and nothing to mask but what comes later. Keys and values
//! lie as the tiles of [`super::tile`] read them; a token's attention is the same whether its sequence came at once, in
//! pieces or token by token.

#![expect(clippy::inline_always, reason = "what is not compiled into the dispatched loop is not vectorised")]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use uptake_tagger::kernels;

use super::tile::{BLOCK, PANEL, multiply};
use crate::decoder::DecoderConfig;

/// How the heads of a layer share keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// Heads of keys and values.
    groups: usize,
    /// Query heads for each.
    shared: usize,
    width: usize,
}

impl Heads {
    pub(super) const fn new(config: &DecoderConfig) -> Self {
        Self { groups: config.kv_heads, shared: config.heads / config.kv_heads, width: config.head_width }
    }

    const fn query_width(&self) -> usize {
        self.groups * self.shared * self.width
    }

    const fn key_width(&self) -> usize {
        self.groups * self.width
    }

    /// Panels that a head's columns make.
    const fn panels(&self) -> usize {
        self.width.div_ceil(PANEL)
    }
}

/// Keys and values of one group.
#[derive(Clone, Debug, Default)]
struct Group {
    /// A panel for each [`PANEL`] tokens: `[width][PANEL]`.
    keys: Vec<f32>,
    /// For each panel of columns `[tokens][PANEL]`.
    values: Vec<Vec<f32>>,
}

impl Group {
    fn push(&mut self, at: usize, key: &[f32], value: &[f32]) {
        let width = key.len();
        let start = at / PANEL * PANEL * width;
        if self.keys.len() == start {
            self.keys.resize(start + PANEL * width, 0.0);
        }
        for (key, stored) in key.iter().zip(self.keys[start + at % PANEL..].iter_mut().step_by(PANEL)) {
            *stored = *key;
        }
        self.values.resize_with(width.div_ceil(PANEL), Vec::new);
        for (value, stored) in value.chunks(PANEL).zip(&mut self.values) {
            stored.extend_from_slice(value);
            stored.resize((at + 1) * PANEL, 0.0);
        }
    }
}

/// What a sequence has been through.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    /// Tokens that all layers have seen.
    tokens: usize,
    groups: Vec<Vec<Group>>,
}

impl Cache {
    /// Of a sequence that has no token yet.
    pub(super) fn new(config: &DecoderConfig) -> Self {
        Self { tokens: 0, groups: vec![vec![Group::default(); config.kv_heads]; config.layers] }
    }

    /// Tokens in it: the position of the next one.
    pub(super) const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Keeps the keys and values of new tokens in a layer, a row for each.
    pub(super) fn push(&mut self, layer: usize, heads: Heads, keys: &[f32], values: &[f32]) {
        let rows = keys.chunks_exact(heads.key_width()).zip(values.chunks_exact(heads.key_width()));
        for (at, (keys, values)) in rows.enumerate() {
            let parts = keys.chunks_exact(heads.width).zip(values.chunks_exact(heads.width));
            for (group, (key, value)) in self.groups[layer].iter_mut().zip(parts) {
                group.push(self.tokens + at, key, value);
            }
        }
    }

    /// Counts new tokens after all layers have seen them.
    pub(super) const fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
    }
}

/// Context of new tokens in a layer, `[tokens][heads · width]`, piece by piece as `queries` are; their keys are there already.
pub(super) fn attend(layer: usize, heads: Heads, pieces: &[(&Cache, &[f32])]) -> Vec<f32> {
    let tasks: Vec<Attend<'_>> = pieces
        .iter()
        .flat_map(|(cache, queries)| {
            (0..heads.groups).map(move |group| Attend {
                heads,
                index: group,
                group: &cache.groups[layer][group],
                start: cache.tokens,
                queries,
            })
        })
        .collect();
    let found: Vec<Vec<f32>> = tasks.into_par_iter().map(|task| Arch::new().dispatch(task)).collect();
    let total: usize = pieces.iter().map(|(_, queries)| queries.len()).sum();
    let mut context = Vec::with_capacity(total);
    // Of each piece and group there are rows `[tokens · shared][panels · PANEL]`: put the groups of a token side by side.
    let padded = heads.panels() * PANEL;
    for groups in found.chunks_exact(heads.groups.max(1)) {
        let tokens = groups.first().map_or(0, |group| group.len() / (padded * heads.shared));
        for token in 0..tokens {
            for group in groups {
                for row in group[token * heads.shared * padded..].chunks_exact(padded).take(heads.shared) {
                    context.extend_from_slice(&row[..heads.width]);
                }
            }
        }
    }
    context
}

/// The queries of one piece that share a head of keys.
struct Attend<'a> {
    heads: Heads,
    index: usize,
    group: &'a Group,
    /// Position of the first query's token.
    start: usize,
    queries: &'a [f32],
}

impl WithSimd for Attend<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { heads, group, .. } = self;
        let tokens = self.queries.len() / heads.query_width();
        let (rows, padded) = (tokens * heads.shared, heads.panels() * PANEL);
        let longest = self.start + tokens;
        let scale = 1.0 / (heads.width as f32).sqrt();
        let mut context = vec![0.0; rows * padded];
        let mut queries = vec![0.0; BLOCK * heads.width];
        let mut weights = vec![0.0; BLOCK * longest.next_multiple_of(PANEL)];
        let mut packed = vec![0.0; BLOCK * longest];
        let mut tile = [0.0; BLOCK * PANEL];
        for first in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - first);
            for row in 0..count {
                let (token, head) = ((first + row) / heads.shared, (first + row) % heads.shared);
                let place = token * heads.query_width() + (self.index * heads.shared + head) * heads.width;
                let query = &self.queries[place..place + heads.width];
                for (query, packed) in query.iter().zip(queries[row..].iter_mut().step_by(count)) {
                    *packed = query * scale;
                }
            }
            let seen = |row: usize| self.start + (first + row) / heads.shared + 1;
            let most = seen(count - 1);
            let stride = most.next_multiple_of(PANEL);
            for (block, keys) in group.keys.chunks_exact(PANEL * heads.width).take(stride / PANEL).enumerate() {
                multiply(simd, &queries[..count * heads.width], count, keys, &mut tile[..count * PANEL]);
                for (row, scores) in tile.chunks_exact(PANEL).take(count).enumerate() {
                    weights[row * stride + block * PANEL..][..PANEL].copy_from_slice(scores);
                }
            }
            for row in 0..count {
                let weights = &mut weights[row * stride..][..most];
                let (seen, later) = weights.split_at_mut(seen(row));
                kernels::softmax(seen);
                later.fill(0.0);
                for (weight, packed) in weights.iter().zip(packed[row..].iter_mut().step_by(count)) {
                    *packed = *weight;
                }
            }
            for (panel, values) in group.values.iter().enumerate() {
                let values = &values[..most * PANEL];
                multiply(simd, &packed[..count * most], count, values, &mut tile[..count * PANEL]);
                for (row, sums) in tile.chunks_exact(PANEL).take(count).enumerate() {
                    context[(first + row) * padded + panel * PANEL..][..PANEL].copy_from_slice(sums);
                }
            }
        }
        context
    }
}
