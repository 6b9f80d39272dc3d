//! Two models' answers to the same prompts: is the candidate better, and does it win by tricks?
//!
//! The offline evaluator of RLUF is the mean P[Love] of a candidate's answers to a fixed set of prompts next to that of the
//! model in use. A policy that learnt to please such a score says goodbye, sends hearts and flatters: the paper saw
//! "bye" rise from 0.72 % to 2.8 % of answers, and only a rate of phrases showed it. So every comparison counts such
//! phrases, lengths, repetition and diversity too: the tripwires.

mod backtest;
mod compare;
mod measures;
mod page;
mod read;

pub use backtest::{Backtest, Logged, Version, backtest};
pub use compare::{Comparison, CorpusFigures, Example, MeasureFigures, ScoreFigures, compare};
pub use measures::{MEASURES, Measure, Wire};
pub use page::page;
pub use read::{Answer, read};

#[cfg(test)]
mod tests;
