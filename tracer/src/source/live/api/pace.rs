//! How long to wait before asking again: longer with every failure, never in step with others.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::request::Failure;

/// First pause after a failure, then doubled.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest pause after the server said that we may not; rights are cached for minutes.
const LONGEST_FORBIDDEN: Duration = Duration::from_secs(300);
/// A watch that the server ends sooner than this is asked for again a little later each time.
const SHORT: Duration = Duration::from_secs(5);

/// Counts failures.
#[derive(Debug, Default)]
pub(in crate::source::live) struct Pace {
    failures: u32,
}

impl Pace {
    /// All is well.
    pub(in crate::source::live) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The pause after this failure.
    pub(in crate::source::live) fn after(&mut self, failure: &Failure) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let longest = match failure.code() {
            401 | 403 => LONGEST_FORBIDDEN,
            _ => LONGEST,
        };
        let own = jittered(self.grown(longest));
        match failure {
            Failure::Refused { after: Some(wanted), .. } => own.max(*wanted),
            _ => own,
        }
    }

    /// The pause after a watch that the server ended properly after `lived`.
    pub(super) fn after_end(&mut self, lived: Duration) -> Duration {
        if lived >= SHORT {
            self.reset();
            return Duration::ZERO;
        }
        self.failures = self.failures.saturating_add(1);
        jittered(self.grown(SHORT))
    }

    fn grown(&self, longest: Duration) -> Duration {
        FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(longest)
    }
}

/// Between three quarters of it and all of it.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    pause * 3 / 4 + pause * random as u32 / 4000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, after: Option<Duration>) -> Failure {
        Failure::Refused { code, reason: String::new(), after }
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let mut pace = Pace::default();
        let failure = Failure::Broken(String::new());
        let mut last = Duration::ZERO;
        for round in 0..40u32 {
            let pause = pace.after(&failure);
            assert!(pause <= LONGEST && pause >= last * 3 / 4, "{round}: {pause:?} after {last:?}");
            last = pause;
        }
        assert!(last >= LONGEST * 3 / 4);
        assert!(pace.after(&refused(403, None)) > LONGEST);
        pace.reset();
        assert!(pace.after(&failure) <= FIRST);
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_less() {
        let mut pace = Pace::default();
        let wanted = Duration::from_secs(20);
        assert_eq!(pace.after(&refused(429, Some(wanted))), wanted);
        for _ in 0..9 {
            pace.after(&refused(429, None));
        }
        assert!(pace.after(&refused(429, Some(Duration::from_secs(1)))) > wanted);
    }

    #[test]
    fn a_watch_that_ends_each_second_is_not_asked_for_each_second() {
        let mut pace = Pace::default();
        let ends: Vec<Duration> = (0..6).map(|_| pace.after_end(Duration::from_secs(1))).collect();
        assert!(ends[5] > Duration::from_secs(3) && ends[5] <= SHORT, "{ends:?}");
        assert_eq!(pace.after_end(Duration::from_secs(50)), Duration::ZERO);
    }
}
