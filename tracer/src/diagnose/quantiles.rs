//! Latencies in bounded memory: exact while they are few, then in buckets of at most 1/32 of their
//! value. Knows nothing of servers.

/// Values kept as they are.
const EXACT_MAX: usize = 256;
/// 32 buckets to each doubling.
const FINE_BITS: u32 = 5;

/// A set of durations in nanoseconds; at most 1,920 buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantiles {
    count: u64,
    max: u64,
    exact: Vec<u64>,
    /// How many there are, by bucket up to the highest.
    buckets: Vec<u64>,
}

impl Quantiles {
    pub(crate) fn add(&mut self, ns: u64) {
        self.count += 1;
        self.max = self.max.max(ns);
        if self.buckets.is_empty() && self.exact.len() < EXACT_MAX {
            self.exact.push(ns);
            return;
        }
        for ns in std::mem::take(&mut self.exact).into_iter().chain([ns]) {
            let bucket = bucket(ns);
            if bucket >= self.buckets.len() {
                self.buckets.resize(bucket + 1, 0);
            }
            if let Some(n) = self.buckets.get_mut(bucket) {
                *n += 1;
            }
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// `None` of nothing.
    pub(crate) fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The least value that `permille` of 1,000 do not exceed; `None` of nothing.
    pub(crate) fn at(&self, permille: u64) -> Option<u64> {
        let rank = self.count.saturating_mul(permille).div_ceil(1000).clamp(1, self.count.max(1));
        if self.buckets.is_empty() {
            let mut sorted = self.exact.clone();
            sorted.sort_unstable();
            return sorted.get(usize::try_from(rank - 1).ok()?).copied();
        }
        let mut seen = 0;
        let reached = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        reached.map(|bucket| middle(bucket).min(self.max))
    }
}

/// Below 1,920: at most 58 doublings of 32, and 63.
fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(FINE_BITS + 1);
    ((shift as usize) << FINE_BITS) + (ns >> shift) as usize
}

fn middle(bucket: usize) -> u64 {
    let (coarse, fine) = (bucket as u64 >> FINE_BITS, bucket as u64 & 31);
    match coarse.checked_sub(1) {
        None => fine,
        Some(shift) => ((32 + fine) << shift) + ((1 << shift) >> 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_are_exact() {
        let mut all = Quantiles::default();
        assert_eq!((all.at(500), all.max()), (None, None));
        for ns in [5_000_000_001, 3, 2, 1] {
            all.add(ns);
        }
        assert_eq!((all.at(500), all.at(950), all.at(0)), (Some(2), Some(5_000_000_001), Some(1)));
        assert_eq!((all.count(), all.max()), (4, Some(5_000_000_001)));
    }

    proptest! {
        #[test]
        fn many_are_off_by_a_64th_at_most(mut values in prop::collection::vec(0u64.., 300..900)) {
            let mut all = Quantiles::default();
            values.iter().for_each(|ns| all.add(*ns));
            prop_assert!(all.exact.is_empty() && all.buckets.len() <= 1920);
            values.sort_unstable();
            for permille in [1, 500, 950, 990, 1000] {
                let rank = (values.len() as u64 * permille).div_ceil(1000) as usize;
                let exact = values[rank - 1];
                let told = all.at(permille).unwrap();
                prop_assert!(told.abs_diff(exact) <= exact / 32, "{permille}: {told} {exact}");
            }
        }
    }
}
