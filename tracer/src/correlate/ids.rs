//! Ids under one key of an index. Holds ids only; knows nothing of what they stand for.

use std::hash::Hash;

use foldhash::HashMap;
use smallvec::SmallVec;

/// Ids under one key, as a rule in rising order and few.
pub(super) type Ids = SmallVec<[u64; 2]>;

/// Takes `id` out; true when nothing is left.
pub(super) fn without(ids: &mut Ids, id: u64) -> bool {
    match ids.binary_search(&id) {
        Ok(at) => {
            ids.remove(at);
        }
        // Not there, or not in order.
        Err(_) => ids.retain(|known| *known != id),
    }
    ids.is_empty()
}

/// Takes `id` out of an index, and its key with the last one.
pub(super) fn forget<K: Eq + Hash>(index: &mut HashMap<K, Ids>, key: &K, id: u64) {
    if index.get_mut(key).is_some_and(|ids| without(ids, id)) {
        index.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_in_order_or_not_and_the_key_with_the_last() {
        let mut index: HashMap<u8, Ids> = HashMap::default();
        index.insert(1, Ids::from_slice(&[5, 9, 7]));
        for id in [7, 8, 5] {
            forget(&mut index, &1, id);
        }
        assert_eq!(index.get(&1).map(|ids| ids.to_vec()), Some(vec![9]));
        forget(&mut index, &1, 9);
        forget(&mut index, &2, 9);
        assert!(index.is_empty());
    }
}
