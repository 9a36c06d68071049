//! A vector with stable indexes and ids that tell a slot's occupants apart.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// Bits of an id that hold the index; the rest counts the slot's occupants, and wraps: an id may
/// come again after 2^36 uses of one slot.
const INDEX_BITS: u32 = 28;
const OCCUPANT_MASK: u64 = u64::MAX >> INDEX_BITS;

#[derive(Debug)]
struct Slot<T> {
    occupant: u64,
    value: Option<T>,
}

/// Values at stable indexes.  A freed slot is taken again first, so memory stays with the peak.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize].value = Some(value);
            return index;
        }
        let index = self.slots.len() as u32;
        assert!(index < 1 << INDEX_BITS, "more than 2^{INDEX_BITS} at once");
        self.slots.push(Slot {
            occupant: 0,
            value: Some(value),
        });
        index
    }

    /// Inserts, and gives the index with its first id.
    #[inline]
    pub(crate) fn insert_named(&mut self, value: T) -> (u32, u64) {
        let index = self.insert(value);
        (index, self.renew_id(index))
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        assert!(slot.value.is_some(), "a vacant slot was removed");
        slot.value = None;
        self.free.push(index);
    }

    /// A new id for the value at `index`; older ones no longer find it.
    #[inline]
    pub(crate) fn renew_id(&mut self, index: u32) -> u64 {
        let slot = &mut self.slots[index as usize];
        slot.occupant = (slot.occupant + 1) & OCCUPANT_MASK;
        slot.occupant << INDEX_BITS | u64::from(index)
    }

    /// The index an id names, if its value is still there.
    #[inline]
    pub(crate) fn find(&self, id: u64) -> Option<u32> {
        let index = (id & ((1 << INDEX_BITS) - 1)) as u32;
        let slot = self.slots.get(index as usize)?;
        (slot.value.is_some() && slot.occupant == id >> INDEX_BITS).then_some(index)
    }

    /// All values, by index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| Some((index as u32, slot.value.as_ref()?)))
    }

    /// The indexes in use, for loops that change what they walk over.
    pub(crate) fn indexes(&self) -> Vec<u32> {
        self.iter().map(|(index, _)| index).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.slots
            .get(index as usize)
            .is_some_and(|slot| slot.value.is_some())
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        self.slots[index as usize]
            .value
            .as_ref()
            .expect("a vacant slot was read")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize]
            .value
            .as_mut()
            .expect("a vacant slot was changed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_value_only_until_the_next_one() {
        let mut slab = Slab::new();
        let index = slab.insert('a');
        let first = slab.renew_id(index);
        assert_eq!(slab.find(first), Some(index));
        let second = slab.renew_id(index);
        assert_eq!((slab.find(first), slab.find(second)), (None, Some(index)));
        slab.remove(index);
        assert_eq!(slab.find(second), None);
        assert_eq!(slab.insert('b'), index);
        let third = slab.renew_id(index);
        assert_eq!((slab.find(second), slab.find(third)), (None, Some(index)));
    }

    #[test]
    fn ids_wrap() {
        let mut slab = Slab::new();
        let index = slab.insert('a');
        slab.slots[0].occupant = OCCUPANT_MASK - 1;
        for _ in 0..4 {
            let id = slab.renew_id(index);
            assert_eq!(slab.find(id), Some(index));
        }
    }
}
