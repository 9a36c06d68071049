//! The table: beside a plain vector under random changes, and at 64 TiB.
#![allow(missing_docs)]

use segue_map::Entry;
use segue_map::entry::{ERROR, NO_WRITE, STATE_INVALID, VALID, ZERO};
use segue_map::table::{PAGE_ENTRIES, Table};

const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Sets states the way the design says, on one word.
fn with_states(word: u64, flags: u8) -> u64 {
    if flags & STATE_INVALID != 0 || word == 0 {
        return 0;
    }
    let bit = |flag: u8, bit: u64| if flags & flag != 0 { bit } else { 0 };
    word | bit(2, ERROR) | bit(4, ZERO) | bit(8, NO_WRITE)
}

#[test]
fn it_reads_as_a_plain_vector_would() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let segments = 1 + random.below(4 * PAGE_ENTRIES);
        let mut table = Table::new(segments);
        let mut plain = vec![0_u64; segments as usize];
        for _ in 0..60 {
            change(&mut random, &mut table, &mut plain);
            for _ in 0..300 {
                let segment = random.below(plain.len() as u64);
                assert_eq!(table.get(segment).0, plain[segment as usize], "seed {seed}");
            }
        }
        let mut valid = plain.iter().enumerate().filter(|(_, word)| **word != 0);
        table.any(|segment, entry| {
            assert_eq!(valid.next(), Some((segment as usize, &entry.0)));
            false
        });
        assert_eq!(valid.next(), None);
    }
}

fn change(random: &mut Random, table: &mut Table, plain: &mut Vec<u64>) {
    let first = random.below(plain.len() as u64);
    let most = [10, PAGE_ENTRIES + 100, 3 * PAGE_ENTRIES][random.below(3) as usize];
    let count = 1 + random.below(most.min(plain.len() as u64 - first));
    let run = &mut plain[first as usize..(first + count) as usize];
    match random.below(9) {
        0..3 => {
            let word = VALID | random.below(7) << 44 | random.below(1 << 40);
            let step = random.below(2);
            table.set_run(first, count, word, step);
            for (i, place) in run.iter_mut().enumerate() {
                *place = word + i as u64 * step;
            }
        }
        3 => {
            table.set_run(first, count, 0, 0);
            run.fill(0);
        }
        4 | 5 => {
            let flags = 1 << random.below(4);
            table.set_states(first, count, flags);
            run.iter_mut()
                .for_each(|word| *word = with_states(*word, flags));
        }
        6 => {
            table.clear_no_write(first, count);
            run.iter_mut().for_each(|word| *word &= !NO_WRITE);
        }
        7 if random.below(3) == 0 => {
            table.invalidate_all();
            plain.fill(0);
        }
        7 => {
            table.forbid_writes();
            plain
                .iter_mut()
                .for_each(|word| *word = with_states(*word, 8));
        }
        _ => {
            let segments = 1 + random.below(4 * PAGE_ENTRIES);
            table.resize(segments);
            plain.resize(segments as usize, 0);
        }
    }
}

#[test]
fn what_was_sent_later_wins_over_a_table_wide_state() {
    let mut table = Table::new(10);
    table.set_run(0, 10, Entry::at(1, 0).0, 1);
    table.forbid_writes();
    table.set_run(3, 1, Entry::at(2, 7).0, 0);
    table.clear_no_write(4, 1);
    assert_eq!(table.get(2).0, Entry::at(1, 2).0 | NO_WRITE);
    assert_eq!(table.get(3), Entry::at(2, 7));
    assert_eq!(table.get(4), Entry::at(1, 4));
    table.invalidate_all();
    table.set_run(5, 1, Entry::at(2, 9).0, 0);
    assert_eq!(table.get(4), Entry::INVALID);
    assert_eq!(table.get(5), Entry::at(2, 9));
    // Raised again, over what is already there.
    table.forbid_writes();
    table.invalidate_all();
    assert!(!table.any(|_, _| true));
}

#[test]
fn a_page_beyond_the_end_comes_back_invalid() {
    let mut table = Table::new(PAGE_ENTRIES + 100);
    table.set_run(0, PAGE_ENTRIES + 100, Entry::at(1, 0).0, 0);
    table.resize(50);
    table.resize(2 * PAGE_ENTRIES);
    assert_eq!(table.get(49), Entry::at(1, 0));
    assert!(!table.any(|segment, _| segment >= 50));
}

#[test]
fn sixty_four_tebibytes_untouched_cost_next_to_nothing() {
    let segments = 64 * TIB / MIB;
    let mut table = Table::new(segments);
    assert_eq!(table.pages_in_memory(), 0);
    table.invalidate_all();
    table.forbid_writes();
    table.set_states(0, segments, STATE_INVALID);
    table.clear_no_write(0, segments);
    table.set_run(0, segments, 0, 0);
    assert_eq!(table.pages_in_memory(), 0, "nothing of this needs a page");
    table.set_run(segments - 1, 1, Entry::at(3, 5).0, 0);
    table.set_run(segments / 2, 1, Entry::at(3, 6).0, 0);
    assert_eq!(table.pages_in_memory(), 2);
    assert_eq!(table.get(segments - 1), Entry::at(3, 5));
    assert_eq!(table.get(segments - 2), Entry::INVALID);
    table.set_run(segments - PAGE_ENTRIES, PAGE_ENTRIES, 0, 0);
    assert_eq!(
        table.pages_in_memory(),
        1,
        "a page made invalid as a whole is given back"
    );
}
