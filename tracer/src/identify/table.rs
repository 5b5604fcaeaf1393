//! A map with a cap: what was written longest ago gives way, what is gone stays for a while,
//! because records about it come late. Knows nothing of what it holds.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::Hash;

use foldhash::{HashMap, HashMapExt};

use crate::record::Timestamp;

/// How long something gone is still remembered, in nanoseconds of record time.
const KEEP_NS: u64 = 120_000_000_000;

#[derive(Debug)]
struct Slot<V> {
    value: V,
    /// Write order; unique.
    stamp: u64,
    gone: Option<Timestamp>,
}

/// The map.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys by the order of their last write.
    order: BTreeMap<u64, K>,
    next: u64,
    cap: usize,
    evicted: u64,
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    pub(super) fn new(cap: usize) -> Self {
        Self { slots: HashMap::new(), order: BTreeMap::new(), next: 0, cap, evicted: 0 }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.slots.get(key).map(|slot| &slot.value)
    }

    /// With the key as it is held.
    pub(super) fn entry(&self, key: &K) -> Option<(&K, &V)> {
        self.slots.get_key_value(key).map(|(key, slot)| (key, &slot.value))
    }

    /// What is not gone and was written not long ago, as the cap counts time: it does not give way
    /// during the next half of it.
    pub(super) fn fresh(&self, key: &K) -> Option<&V> {
        let half = self.cap as u64 / 2;
        let slot = self.slots.get(key)?;
        (slot.gone.is_none() && slot.stamp + half > self.next).then_some(&slot.value)
    }

    /// Also says since when it is gone, if it is.
    pub(super) fn gone(&self, key: &K) -> Option<Timestamp> {
        self.slots.get(key)?.gone
    }

    /// Writes; what was gone is there again.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let stamp = self.next;
        self.next += 1;
        let slot = Slot { value, stamp, gone: None };
        if let Some(old) = self.slots.insert(key.clone(), slot) {
            self.order.remove(&old.stamp);
        }
        self.order.insert(stamp, key);
        while self.slots.len() > self.cap
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.slots.remove(&oldest);
            self.evicted += 1;
        }
    }

    /// Changes the value in place, or a default one; counts as a write.
    pub(super) fn change(&mut self, key: K, change: impl FnOnce(&mut V))
    where
        V: Default,
    {
        let mut value = self.remove(&key).unwrap_or_default();
        change(&mut value);
        self.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.remove(key)?;
        self.order.remove(&slot.stamp);
        Some(slot.value)
    }

    /// It is gone; it stays readable until a sweep finds it old.
    pub(super) fn retire(&mut self, key: &K, at: Timestamp) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.gone.get_or_insert(at);
        }
    }

    /// Forgets what has been gone for long.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let order = &mut self.order;
        self.slots.retain(|_, slot| {
            let keep = slot.gone.is_none_or(|gone| now.since(gone) < KEEP_NS);
            if !keep {
                order.remove(&slot.stamp);
            }
            keep
        });
    }

    /// Latest written first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().rev().filter_map(|key| Some((key, &self.slots.get(key)?.value)))
    }

    /// Entries given up because of the cap.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_write_gives_way() {
        let mut table = Table::new(2);
        table.insert("a", 1);
        table.insert("b", 2);
        table.change("a", |v| *v += 10);
        table.insert("c", 3);
        assert_eq!(
            (table.get(&"a"), table.get(&"b"), table.get(&"c")),
            (Some(&11), None, Some(&3))
        );
        assert_eq!(table.evicted(), 1);
        assert_eq!(table.iter().map(|(k, _)| *k).collect::<Vec<_>>(), ["c", "a"]);
    }

    #[test]
    fn gone_is_kept_for_a_while() {
        let mut table = Table::new(9);
        table.insert(1, ());
        table.insert(2, ());
        table.retire(&1, Timestamp(5));
        table.sweep(Timestamp(KEEP_NS));
        assert!(table.get(&1).is_some());
        table.sweep(Timestamp(KEEP_NS + 5));
        assert_eq!((table.get(&1), table.get(&2)), (None, Some(&())));
        assert_eq!(table.order.len(), 1);
    }
}
