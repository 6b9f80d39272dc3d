//! An endpoint with everything around it: cache, budget, repetition, bounded concurrency, an end in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::budget::{Budget, Limits, Prices, Reservation};
use crate::cache::{Cache, Found};
use crate::endpoint::{Completion, Endpoint, Failure, Finish, Request, Retry, Unanswerable, Usage};
use crate::error::{Error, Result};
use crate::retry::RetryPolicy;
use crate::tally::Tally;

/// How requests are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests in flight at once.
    pub concurrency: usize,
    /// When to ask again.
    pub retry: RetryPolicy,
    /// What may be spent.
    pub limits: Limits,
    /// What tokens cost.
    pub prices: Prices,
    /// Of the drawn part of waits; results do not depend on it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 8,
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            prices: Prices::default(),
            seed: 0,
        }
    }
}

/// An answer of which the reader could make something.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    pub(crate) value: T,
    pub(crate) text: String,
}

/// Why an answer is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Refusal,
    Malformed,
    CutOff,
}

/// No answer, or none of use.
#[derive(Debug)]
pub(crate) enum NoReply {
    Unusable { reason: Unusable, text: String },
    Never(Unanswerable),
    Unanswered(Retry),
    Halted(Error),
}

/// An endpoint behind cache and budget. All stages ask through it.
#[derive(Debug)]
pub struct Judge {
    endpoint: Arc<dyn Endpoint>,
    cache: Cache,
    budget: Budget,
    policy: RetryPolicy,
    concurrency: usize,
    permits: Semaphore,
    draws: Mutex<ChaCha8Rng>,
    quiet_until: Mutex<Option<Instant>>,
    halted: watch::Sender<Option<Error>>,
    tally: Mutex<Tally>,
}

impl Judge {
    /// A judge over an endpoint.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that cannot work.
    pub fn new(endpoint: Arc<dyn Endpoint>, cache: Cache, options: Options) -> Result<Self> {
        let Options { concurrency, retry, limits, prices, seed } = options;
        if concurrency == 0 || concurrency > Semaphore::MAX_PERMITS {
            return Err(Error::Invalid("concurrency must be at least 1".to_owned()));
        }
        let amounts = [Some(prices.input), Some(prices.output), limits.money];
        if amounts.into_iter().flatten().any(|amount| !amount.is_finite() || amount < 0.0) {
            return Err(Error::Invalid("prices and the budget in money must be numbers from 0 on".to_owned()));
        }
        if limits.money.is_some() && prices == Prices::default() {
            let why = "a budget in money needs the prices of the model, per million tokens sent and received";
            return Err(Error::Invalid(why.to_owned()));
        }
        Ok(Self {
            endpoint,
            cache,
            budget: Budget::new(limits, prices),
            policy: retry,
            concurrency,
            permits: Semaphore::new(concurrency),
            draws: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            quiet_until: Mutex::default(),
            halted: watch::Sender::new(None),
            tally: Mutex::default(),
        })
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        self.endpoint.model()
    }

    /// Requests in flight at once.
    pub const fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// What was spent.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Counts so far.
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// Asks for the end: nothing more is sent, what is under way is waited for and kept.
    pub fn stop(&self) {
        self.halt(Error::Stopped);
    }

    /// Ends all asking, for a reason; the first one counts.
    pub(crate) fn halt(&self, reason: Error) {
        self.halted.send_if_modified(|halted| {
            let first = halted.is_none();
            if first {
                *halted = Some(reason);
            }
            first
        });
    }

    /// Why nothing more is asked.
    pub(crate) fn halted(&self) -> Option<Error> {
        self.halted.borrow().clone()
    }

    /// Waits until nothing more is asked.
    pub(crate) async fn until_halted(&self) {
        let mut halted = self.halted.subscribe();
        // The sender lives as long as `self`, so this ends only when the condition holds.
        let _ = halted.wait_for(Option::is_some).await;
    }

    /// Counts a question that is put again.
    pub(crate) fn count_asked_again(&self) {
        locked(&self.tally).asked_again += 1;
    }

    /// Asks, or takes the answer from the cache. An answer is kept there when `read` can make something of it.
    pub(crate) async fn ask<T>(
        &self,
        request: &Request,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Reply<T>, NoReply> {
        // Before the cache is looked into: so rows are asked about in the order in which they will be written.
        let _permit = self.unless_halted(self.permits.acquire()).await?;
        let key = Cache::key(self.model(), request);
        match self.cache.find(&key).await {
            Ok(Found::Answer(text)) => {
                if let Some(value) = read(&text) {
                    locked(&self.tally).cache_hits += 1;
                    return Ok(Reply { value, text });
                }
                locked(&self.tally).cache_broken += 1;
            }
            Ok(Found::Broken) => locked(&self.tally).cache_broken += 1,
            Ok(Found::Nothing) => {}
            Err(error) => return Err(self.end(error)),
        }
        let completion = self.complete(request).await?;
        let unusable = |reason| NoReply::Unusable { reason, text: completion.text.clone() };
        match completion.finish {
            Finish::Refusal => return Err(unusable(Unusable::Refusal)),
            Finish::Length => return Err(unusable(Unusable::CutOff)),
            Finish::Stop => {}
        }
        let value = read(&completion.text).ok_or_else(|| unusable(Unusable::Malformed))?;
        let tokens = completion.usage.unwrap_or_default();
        let kept = self.cache.keep(&key, self.model(), &completion.text, (tokens.input, tokens.output)).await;
        kept.map_err(|error| self.end(error))?;
        Ok(Reply { value, text: completion.text })
    }

    /// Asks the endpoint until it answers, it is time to give up, or the end has come.
    async fn complete(&self, request: &Request) -> Result<Completion, NoReply> {
        let most = Usage { input: tokens_at_most(request.bytes()), output: u64::from(request.max_tokens) };
        for repetition in 0.. {
            let quiet_until = *locked(&self.quiet_until);
            if let Some(until) = quiet_until {
                self.unless_halted(sleep_until(until)).await?;
            }
            let reserved = self.unless_halted(self.budget.reserve(most)).await?;
            let reservation = reserved.map_err(|exhausted| self.end(exhausted.into()))?;
            locked(&self.tally).requests += 1;
            let (reason, wait) = match self.endpoint.complete(request).await {
                Ok(completion) => {
                    self.book(reservation, request, &completion);
                    return Ok(completion);
                }
                Err(Failure::Never(reason)) => return Err(NoReply::Never(reason)),
                Err(Failure::Refused(why)) => return Err(self.end(Error::Refused(why))),
                Err(Failure::Again { reason, wait }) => (reason, wait),
            };
            if reason.may_be_billed() {
                reservation.settle_in_full();
            } else {
                drop(reservation);
            }
            *locked(&self.tally).failed.entry(reason).or_default() += 1;
            let draw = locked(&self.draws).random::<f64>();
            let Some(pause) = self.policy.wait(repetition, wait, draw) else {
                return Err(NoReply::Unanswered(reason));
            };
            tracing::debug!(reason = reason.name(), ?pause, repetition, "asking again");
            if reason == Retry::RateLimited && wait.is_some() {
                // The limit is on all that we send, not on this one request.
                let mut quiet_until = locked(&self.quiet_until);
                *quiet_until = (*quiet_until).max(Some(Instant::now() + pause));
            }
            self.unless_halted(sleep(pause)).await?;
        }
        Err(self.end(Error::Bug("repetitions are counted without end".to_owned())))
    }

    fn book(&self, reservation: Reservation<'_>, request: &Request, completion: &Completion) {
        let used = completion.usage.unwrap_or_else(|| {
            locked(&self.tally).estimated += 1;
            Usage { input: tokens_at_most(request.bytes()), output: tokens_at_most(completion.text.len() as u64) }
        });
        reservation.settle(used);
    }

    /// Ends everything with this error.
    fn end(&self, error: Error) -> NoReply {
        self.halt(error);
        NoReply::Halted(self.halted().unwrap_or(Error::Stopped))
    }

    /// What `future` gives, unless the end comes first.
    async fn unless_halted<F: Future>(&self, future: F) -> Result<F::Output, NoReply> {
        tokio::select! {
            biased;
            () = self.until_halted() => Err(NoReply::Halted(self.halted().unwrap_or(Error::Stopped))),
            output = future => Ok(output),
        }
    }
}

/// An upper bound for the tokens of so many bytes: tokenizers need about one for four bytes of prose, and one for two of
/// what they know least.
const fn tokens_at_most(bytes: u64) -> u64 {
    bytes / 2 + 32
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
