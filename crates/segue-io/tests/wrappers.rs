//! Containers that fail, delay, lie and forget.

use segue_io::container::{Cache, Container, DATA_AT_BYTES, Note, create, power_loss, remove};
use std::path::PathBuf;

const SEGMENT: u64 = 64 << 10;
const ME: [u8; 16] = [7; 16];

struct Case {
    folder: tempfile::TempDir,
    uri: String,
}

impl Case {
    fn new(wrappers: &str) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let uri = format!("{wrappers}+file://{}/box", folder.path().display());
        create(
            &uri,
            DATA_AT_BYTES + 16 * SEGMENT,
            SEGMENT,
            ME,
            ME,
            1,
            Cache::Page,
        )
        .unwrap();
        Case { folder, uri }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("box")
    }

    fn open(&self, fence: u64) -> Container {
        Container::open(&self.uri, Cache::Page, ME, None, fence).unwrap()
    }

    fn rules(&self, text: &str) {
        std::fs::write(self.folder.path().join("box.faults"), text).unwrap();
    }
}

fn filled(container: &Container, block: u64) -> Option<u8> {
    let mut back = [0; 4096];
    container.read(block * 4096, &mut back).unwrap();
    back.iter().all(|&byte| byte == back[0]).then_some(back[0])
}

#[test]
fn faults_follow_the_rules_of_the_moment() {
    let case = Case::new("faulty");
    let open = case.open(1);
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    case.rules("fail write 28\nfail flush 5\n");
    assert_eq!(errno(open.write(0, &[1; 4096], false)), 28);
    assert_eq!(errno(open.flush()), 5);
    let at = DATA_AT_BYTES;
    case.rules(&format!(
        "fail any 6 {} {}\ndelay any 1\n",
        at + 4096,
        at + 8192
    ));
    open.write(0, &[1; 4096], false).unwrap();
    assert_eq!(errno(open.write(4095, &[1; 2], false)), 6);
    case.rules("lie write\n");
    open.write(0, &[9; 4096], true).unwrap();
    assert_eq!(filled(&open, 0), Some(1), "a lie writes nothing");
    case.rules("fail wirte 5\n");
    assert_eq!(errno(open.flush()), libc::EBADMSG);
    case.rules("");
    open.flush().unwrap();
    assert!(
        open.try_write(0, &[1]).is_none(),
        "delays must never hold the data thread"
    );
}

#[test]
fn the_flush_after_a_stamp_that_failed_fails_too() {
    let case = Case::new("faulty");
    let open = case.open(1);
    case.rules("fail write 5\n");
    assert!(open.stamp(1, 1).is_err(), "it may have been told of a loss");
    case.rules("");
    let failed = open.flush_in_order().unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    open.flush_in_order().unwrap();
    open.stamp(1, 1).unwrap();
    open.flush_in_order().unwrap();
}

#[test]
fn power_loss_spares_what_was_flushed_or_fua_and_loses_some_of_the_rest() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..8 {
        let case = Case::new("forgetful");
        let (one, other) = (case.open(1), case.open(2));
        one.write(0, &[1; 64 * 4096], false).unwrap();
        other.flush().unwrap();
        one.write(0, &[2; 32 * 4096], false).unwrap();
        other.write(4 * 4096, &[3; 4096], true).unwrap();
        assert_eq!(
            filled(&other, 0),
            Some(2),
            "seen by everybody before any flush"
        );
        drop((one, other));
        let result = power_loss(&case.path(), seed).unwrap();
        assert_eq!(result.unflushed_blocks, 31);
        let after = case.open(1);
        assert_eq!(filled(&after, 4), Some(3), "FUA was kept");
        assert!(
            (32..64).all(|block| filled(&after, block) == Some(1)),
            "flushed was kept"
        );
        for block in (0..32).filter(|&block| block != 4) {
            match filled(&after, block) {
                Some(2) => kept += 1,
                Some(1) => lost += 1,
                None => torn += 1,
                other => panic!("block {block} holds {other:?}, which nobody wrote"),
            }
        }
        drop(after);
        assert_eq!(power_loss(&case.path(), seed).unwrap().unflushed_blocks, 0);
    }
    assert!(
        kept > 0 && lost > 0 && torn > 0,
        "{kept} kept, {lost} lost, {torn} torn"
    );
}

#[test]
fn a_lying_flush_over_a_forgetful_file_loses_data() {
    let case = Case::new("faulty+forgetful");
    case.rules("lie flush\n");
    let open = case.open(1);
    open.write(0, &[2; 64 * 4096], false).unwrap();
    open.flush().unwrap();
    drop(open);
    assert_eq!(power_loss(&case.path(), 1).unwrap().unflushed_blocks, 64);
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_failed_flush_leaves_a_note_that_outlives_who_was_told() {
    for cache in [Cache::Page, Cache::Direct] {
        let case = Case::new("faulty");
        let open = |fence| Container::open(&case.uri, cache, ME, None, fence).unwrap();
        let agent = open(7);
        agent.flush_hearing().unwrap();
        case.rules("fail flush 28\n");
        assert_eq!(errno(agent.flush_in_order()), Some(28));
        case.rules("");
        drop(agent);
        let controller = open(9);
        controller.flush_in_order().unwrap();
        assert_eq!(errno(controller.flush_hearing()), Some(libc::EIO));
        let note = controller.note().unwrap().unwrap();
        assert_eq!((note.errno, note.holder), (28, 7));
        controller.stamp(3, 5).unwrap();
        let serial = note.serial + 1;
        controller.clear_note(Note { serial, ..note }).unwrap();
        assert_eq!(
            errno(controller.flush_hearing()),
            Some(libc::EIO),
            "it is another note"
        );
        controller.clear_note(note).unwrap();
        controller.flush_hearing().unwrap();
        assert_eq!(controller.read_header().unwrap().commit, 5);
    }
}

#[test]
fn a_stamp_that_failed_leaves_a_note_too() {
    let case = Case::new("faulty");
    let open = case.open(1);
    case.rules("fail write 5 0 8192\n");
    assert_eq!(errno(open.stamp(1, 1)), Some(5));
    case.rules("");
    drop(open);
    let next = case.open(2);
    let note = next.note().unwrap().unwrap();
    assert_eq!(errno(next.flush_hearing()), Some(libc::EIO));
    case.rules("fail write 5 8192 12288\n");
    assert_eq!(errno(next.clear_note(note)), Some(5));
    case.rules("");
    assert_eq!(
        errno(next.flush_in_order()),
        Some(libc::EIO),
        "what clears may have been told of a loss"
    );
    next.clear_note(next.note().unwrap().unwrap()).unwrap();
    next.flush_hearing().unwrap();
}

#[test]
fn a_note_survives_power_loss_and_no_other_container_has_it() {
    let case = Case::new("forgetful");
    let open = case.open(1);
    open.leave_note(5);
    open.leave_note(6);
    drop(open);
    power_loss(&case.path(), 1).unwrap();
    let next = case.open(2);
    assert_eq!(next.note().unwrap().unwrap().errno, 5, "the first stands");
    drop(next);
    remove(&case.uri, ME, Cache::Page).unwrap();
    let (other, size) = ([8; 16], DATA_AT_BYTES + 16 * SEGMENT);
    create(&case.uri, size, SEGMENT, other, ME, 1, Cache::Page).unwrap();
    let made = Container::open(&case.uri, Cache::Page, other, None, 3).unwrap();
    assert_eq!(made.note().unwrap(), None);
}

#[test]
fn nobody_leaves_a_note_in_what_is_anothers_by_now() {
    let case = Case::new("faulty");
    let open = case.open(1);
    let header = std::fs::read(case.path()).unwrap()[..8192].to_vec();
    let write = |bytes: &[u8]| {
        let file = std::fs::File::options()
            .write(true)
            .open(case.path())
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    };
    write(&[0; 8192]);
    open.leave_note(5);
    write(&header);
    assert_eq!(open.note().unwrap(), None);
    open.leave_note(5);
    assert!(open.note().unwrap().is_some());
}
