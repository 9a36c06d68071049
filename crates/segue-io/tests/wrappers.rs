//! Containers that fail, delay, lie and forget.

use segue_io::container::{Cache, Container, DATA_AT_BYTES, create, power_loss};
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
