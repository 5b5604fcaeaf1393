//! Things by number. Numbers rise in the order in which the things came and have the place in them, so
//! nothing is hashed to find one. Knows nothing of what it holds.

/// Lower bits of a number: the place. More places than any cap here asks for.
const PLACE_BITS: u32 = 20;
const PLACES: usize = 1 << PLACE_BITS;

/// What stands at a place, and its number: places are used again, numbers are not.
#[derive(Debug)]
struct Slot<T> {
    number: u64,
    thing: Box<T>,
}

/// The things; boxed, for they are large and come and go.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<Slot<T>>>,
    free: Vec<usize>,
    came: u64,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), came: 0 }
    }
}

/// The place in a number.
fn place(number: u64) -> usize {
    (number % PLACES as u64) as usize
}

impl<T> Slab<T> {
    pub(crate) fn get(&self, number: &u64) -> Option<&T> {
        let slot = self.slots.get(place(*number))?.as_ref()?;
        (slot.number == *number).then_some(&*slot.thing)
    }

    pub(crate) fn get_mut(&mut self, number: &u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(place(*number))?.as_mut()?;
        (slot.number == *number).then_some(&mut *slot.thing)
    }

    /// Takes a thing in; its number, which is never 0. `None`: there are too many, and it is dropped.
    pub(crate) fn insert(&mut self, thing: Box<T>) -> Option<u64> {
        let place = self.free.pop().unwrap_or(self.slots.len());
        if place >= PLACES {
            return None;
        }
        self.came += 1;
        let number = self.came << PLACE_BITS | place as u64;
        let slot = Some(Slot { number, thing });
        match self.slots.get_mut(place) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        Some(number)
    }

    pub(crate) fn remove(&mut self, number: &u64) -> Option<Box<T>> {
        let at = place(*number);
        let slot = self.slots.get_mut(at)?.take_if(|slot| slot.number == *number)?;
        self.free.push(at);
        Some(slot.thing)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_but_never_a_number() {
        let mut slab = Slab::default();
        let numbers: Vec<u64> = (0..4).filter_map(|n| slab.insert(Box::new(n))).collect();
        assert!(numbers.is_sorted() && numbers[0] > 0);
        assert_eq!(slab.remove(&numbers[1]), Some(Box::new(1)));
        assert_eq!((slab.remove(&numbers[1]), slab.len()), (None, 3));
        let later = slab.insert(Box::new(9)).unwrap();
        assert!(later > numbers[3]);
        assert_eq!((slab.slots.len(), slab.len()), (4, 4));
        assert_eq!(slab.get(&numbers[1]), None);
        assert_eq!(slab.get_mut(&numbers[1]), None);
        assert_eq!((slab.get(&later), slab.get(&numbers[3])), (Some(&9), Some(&3)));
        assert_eq!((slab.get(&0), slab.get(&u64::MAX)), (None, None));
    }

    #[test]
    fn there_is_an_end() {
        let mut slab = Slab::default();
        let numbers: Vec<u64> = (0..=PLACES).filter_map(|_| slab.insert(Box::new(()))).collect();
        assert_eq!((numbers.len(), slab.len()), (PLACES, PLACES));
        slab.remove(&numbers[7]);
        assert!(slab.insert(Box::new(())).is_some());
    }
}
