//! What a run may spend, in tokens and in money, decided before each request is sent.
//!
//! A request reserves the most it can cost; when its answer is there, what it did cost is booked instead. A request that
//! finds no room waits for reservations to be settled, and only when none is left is the budget [`Exhausted`]. So what is
//! spent stays below the limit as long as the estimate of a request's tokens is an upper bound.

use std::fmt;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::endpoint::Usage;

/// Prices per million tokens, in whatever currency the budget is in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// Of tokens sent.
    pub input: f64,
    /// Of tokens received.
    pub output: f64,
}

impl Prices {
    /// What so many tokens cost.
    #[must_use]
    pub fn cost(&self, usage: Usage) -> f64 {
        (usage.input as f64).mul_add(self.input, usage.output as f64 * self.output) / 1e6
    }
}

/// How much may be spent; nothing said is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Tokens sent and received.
    pub tokens: Option<u64>,
    /// Money, in the currency of the prices.
    pub money: Option<f64>,
}

/// No further request fits into the budget.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the budget is used up: {what}; raise it and run it again to go on, what is done is kept")]
pub struct Exhausted {
    what: String,
}

#[derive(Debug, Default)]
struct State {
    spent: Usage,
    reserved: Usage,
    reservations: u64,
}

/// What was spent, and what may still be.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    prices: Prices,
    state: Mutex<State>,
    settled: Notify,
}

impl Budget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(limits: Limits, prices: Prices) -> Self {
        Self { limits, prices, state: Mutex::default(), settled: Notify::new() }
    }

    /// Tokens booked so far.
    pub fn spent(&self) -> Usage {
        self.state().spent
    }

    /// Money booked so far.
    pub fn cost(&self) -> f64 {
        self.prices.cost(self.spent())
    }

    /// Makes room for a request that needs at most so many tokens.
    pub(crate) async fn reserve(&self, most: Usage) -> Result<Reservation<'_>, Exhausted> {
        loop {
            let mut settled = pin!(self.settled.notified());
            // Registered before the look, so that nothing settled in between is missed.
            let _ = settled.as_mut().enable();
            {
                let mut state = self.state();
                let after = state.spent.plus(state.reserved).plus(most);
                match self.overrun(state.spent, most, after) {
                    None => {
                        state.reserved = state.reserved.plus(most);
                        state.reservations += 1;
                        return Ok(Reservation { budget: self, most });
                    }
                    Some(exhausted) if state.reservations == 0 => return Err(exhausted),
                    Some(_) => {}
                }
            }
            settled.await;
        }
    }

    fn overrun(&self, spent: Usage, most: Usage, after: Usage) -> Option<Exhausted> {
        if let Some(limit) = self.limits.tokens
            && after.total() > limit
        {
            let (spent, most) = (spent.total(), most.total());
            return Some(Exhausted { what: format!("{spent} of {limit} tokens, the next request may need {most}") });
        }
        let limit = self.limits.money.filter(|limit| self.prices.cost(after) > *limit)?;
        let (spent, most) = (Money(self.prices.cost(spent)), Money(self.prices.cost(most)));
        Some(Exhausted { what: format!("{spent} of {} spent, the next request may cost {most}", Money(limit)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An amount with as many places as small sums need.
struct Money(f64);

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.abs() < 1.0 { write!(formatter, "{:.6}", self.0) } else { write!(formatter, "{:.2}", self.0) }
    }
}

/// Room in a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    most: Usage,
}

impl Reservation<'_> {
    /// Books what the request did cost.
    pub(crate) fn settle(self, used: Usage) {
        let mut state = self.budget.state();
        state.spent = state.spent.plus(used);
    }

    /// Books all that was reserved: whether the server charges for it is not known.
    pub(crate) fn settle_in_full(self) {
        let most = self.most;
        self.settle(most);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.reserved = state.reserved.minus(self.most);
        state.reservations = state.reservations.saturating_sub(1);
        drop(state);
        self.budget.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const fn tokens(input: u64, output: u64) -> Usage {
        Usage { input, output }
    }

    #[tokio::test]
    async fn a_reservation_waits_for_room_and_is_refused_when_none_can_come() {
        let budget = Budget::new(Limits { tokens: Some(100), money: None }, Prices::default());
        let first = budget.reserve(tokens(60, 20)).await.unwrap();
        let mut waiting = pin!(budget.reserve(tokens(30, 0)));
        assert!(poll!(waiting.as_mut()).is_pending(), "no room yet, but maybe later");
        first.settle(tokens(50, 5));
        let second = waiting.await.unwrap();
        second.settle_in_full();
        assert_eq!(budget.spent(), tokens(80, 5));
        let error = budget.reserve(tokens(10, 6)).await.unwrap_err().to_string();
        assert!(error.contains("85 of 100 tokens, the next request may need 16"), "{error}");
        drop(budget.reserve(tokens(10, 5)).await.unwrap());
        assert_eq!(budget.spent(), tokens(80, 5), "what was given back is not booked");
    }

    #[tokio::test]
    async fn money_counts_by_the_prices() {
        let prices = Prices { input: 2.0, output: 10.0 };
        let budget = Budget::new(Limits { tokens: None, money: Some(0.01) }, prices);
        budget.reserve(tokens(1_000, 500)).await.unwrap().settle_in_full();
        assert!((budget.cost() - 0.007).abs() < 1e-12);
        let error = budget.reserve(tokens(2_000, 0)).await.unwrap_err().to_string();
        assert!(error.contains("0.007000 of 0.010000 spent, the next request may cost 0.004000"), "{error}");
        assert!(Budget::new(Limits::default(), prices).reserve(tokens(u64::MAX, 1)).await.is_ok());
    }
}
