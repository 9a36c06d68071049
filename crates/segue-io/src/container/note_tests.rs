//! What counts as a note.

use super::*;

const ME: Identity = [7; 16];
const NOTE: Note = Note {
    errno: 28,
    holder: 3,
    serial: u64::MAX,
};

#[test]
fn what_was_written_is_read() {
    assert_eq!(Note::decode(&NOTE.encode(&ME), &ME), Some(NOTE));
}

#[test]
fn what_does_not_check_out_is_no_note() {
    assert_eq!(Note::decode(&[0; SLOT_BYTES], &ME), None);
    assert_eq!(Note::decode(&NOTE.encode(&ME), &[8; 16]), None, "another's");
    for at in [0, 8, 16, 32, 40, 2000, CRC_AT] {
        let mut block = NOTE.encode(&ME);
        block[at] ^= 1;
        assert_eq!(Note::decode(&block, &ME), None, "byte {at}");
    }
}
