//! The truth table over every combination of its inputs: against the design's words, and against
//! the page that shows it.
#![allow(missing_docs)]

use segue_map::decide::{Action, EntryClass, OpClass, Status, TRUTH_TABLE, decide, status};
use segue_map::entry::{ERROR, Entry, NO_WRITE, VALID, ZERO};

/// Every combination of the flags, with and without a location.
fn all_entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for bits in 0..16_u64 {
        for location in [0, 0x0123_4567_89ab_cdef & !(0xf << 60), (1 << 60) - 1] {
            entries.push(Entry(bits << 60 | location));
        }
    }
    entries
}

/// The design's section 3, sentence by sentence.
fn by_the_words(entry: Entry, class: OpClass) -> Action {
    use Action::{Done, Fail, FaultDiscard, FaultRead, FaultWrite, Go, Zeroes};
    use OpClass::{
        Read, TrimPart, TrimWhole, Write, ZeroPartHole, ZeroPartNoHole, ZeroWholeHole,
        ZeroWholeNoHole,
    };
    let fault = match class {
        Read => FaultRead,
        ZeroWholeHole | TrimWhole => FaultDiscard,
        _ => FaultWrite,
    };
    // "Invalid beats error beats zero beats no_write."
    if entry.0 & VALID == 0 {
        // "Partial trims never fault [...] elsewhere done at once with nothing changed."
        return if class == TrimPart { Done } else { fault };
    }
    if entry.0 & ERROR != 0 {
        return Fail;
    }
    if entry.0 & ZERO != 0 {
        return match class {
            Read => Zeroes,
            // "done at once (fault if NO_HOLE)"; partial write-zeroes: "on zero: done at once, but
            // NO_HOLE faults".
            ZeroWholeHole | ZeroPartHole | TrimWhole | TrimPart => Done,
            Write | ZeroWholeNoHole | ZeroPartNoHole => fault,
        };
    }
    if entry.0 & NO_WRITE != 0 {
        return match class {
            Read => Go,
            TrimPart => Done,
            _ => fault,
        };
    }
    match class {
        // "the controller makes it zero and frees the location (NO_HOLE: goes ahead [...])"
        ZeroWholeHole | TrimWhole => fault,
        _ => Go,
    }
}

#[test]
fn every_combination_is_decided_as_designed() {
    for entry in all_entries() {
        for class in OpClass::ALL {
            assert_eq!(
                decide(entry, class),
                by_the_words(entry, class),
                "{class:?} on {entry:?}"
            );
        }
    }
}

#[test]
fn block_status_knows_what_a_read_would_find() {
    for entry in all_entries() {
        let expected = match decide(entry, OpClass::Read) {
            Action::FaultRead => Status::Unknown,
            Action::Fail => Status::Fail,
            Action::Zeroes => Status::Hole,
            Action::Go => Status::Data,
            other => panic!("a read was decided {other:?}"),
        };
        assert_eq!(status(entry), expected, "{entry:?}");
    }
}

#[test]
fn nothing_goes_to_an_entry_without_a_location_nor_writes_where_it_must_not() {
    for entry in all_entries() {
        for class in OpClass::ALL {
            if decide(entry, class) == Action::Go {
                assert!(entry.has_location(), "{class:?} on {entry:?}");
                assert!(
                    class == OpClass::Read || entry.0 & NO_WRITE == 0,
                    "{class:?} {entry:?}"
                );
            }
        }
    }
}

#[test]
fn the_documentation_shows_the_table() {
    let page = include_str!("../../../docs/mapping.md");
    let table = page
        .split("<!-- truth table -->")
        .nth(1)
        .expect("the page marks the table");
    let lines: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .take(7)
        .collect();
    let headings: Vec<&str> = lines[0].split('|').map(str::trim).collect();
    for (column, class) in OpClass::ALL.iter().enumerate() {
        assert_eq!(headings[column + 2], class.name());
    }
    for (index, class) in EntryClass::ALL.iter().enumerate() {
        let cells: Vec<&str> = lines[index + 2].split('|').map(str::trim).collect();
        assert_eq!(cells[1], class.name());
        for (column, action) in TRUTH_TABLE[*class as usize].iter().enumerate() {
            assert_eq!(
                cells[column + 2],
                action.name(),
                "{class:?}, {:?}",
                OpClass::ALL[column]
            );
        }
    }
}
