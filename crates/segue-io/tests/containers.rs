//! Containers: header, identity, fence, and the ways of reading and writing them.

use segue_io::container::{
    Cache, Container, ContainerUri, DATA_AT_BYTES, Ending, Header, Slot, ZeroHow, create, inspect,
    remove,
};
use std::os::unix::fs::FileExt;

const SEGMENT: u64 = 64 << 10;
const ME: [u8; 16] = [7; 16];
const HOUSE: [u8; 16] = [9; 16];

fn uri_in(folder: &tempfile::TempDir, name: &str) -> String {
    format!("file://{}/{name}", folder.path().display())
}

fn made(folder: &tempfile::TempDir, cache: Cache) -> String {
    let uri = uri_in(folder, "box");
    let header = create(
        &uri,
        DATA_AT_BYTES + 16 * SEGMENT,
        SEGMENT,
        ME,
        HOUSE,
        1,
        cache,
    )
    .unwrap();
    assert_eq!((header.segments, header.clean), (16, true));
    uri
}

#[test]
fn what_is_written_is_read_back_either_way_of_caching() {
    for cache in [Cache::Page, Cache::Direct] {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let uri = made(&folder, cache);
        let open = Container::open(&uri, cache, ME, Some(HOUSE), 1).unwrap();
        let data: Vec<u8> = (0..8192u32).map(|n| (n % 251) as u8).collect();
        // Unaligned memory on purpose: the slice starts one byte into the vector's allocation.
        let mut shifted = vec![0];
        shifted.extend_from_slice(&data);
        open.write(4096, &shifted[1..], false).unwrap();
        let mut back = vec![0xee; 8000];
        open.read(4096 + 100, &mut back).unwrap();
        assert_eq!(back, data[100..8100], "{cache:?}");
        open.zero(
            4096,
            4096,
            ZeroHow {
                no_hole: true,
                fua: true,
                fast: false,
            },
        )
        .unwrap();
        open.read(4096, &mut back).unwrap();
        assert!(back[..4096].iter().all(|&byte| byte == 0));
        assert_eq!(back[4096..], data[4096..8000]);
        open.flush().unwrap();
    }
}

#[test]
fn trims_leave_each_block_old_or_zero_and_touch_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = Container::open(&uri, Cache::Page, ME, None, 1).unwrap();
    open.write(0, &[5; 32768], false).unwrap();
    open.trim(1000, 20000).unwrap();
    let mut back = vec![1; 32768];
    open.read(0, &mut back).unwrap();
    assert!(
        back[..1000]
            .iter()
            .chain(&back[21000..])
            .all(|&byte| byte == 5)
    );
    assert!(
        back.chunks(4096)
            .all(|block| block.iter().all(|&byte| byte == block[0]))
    );
}

#[test]
fn ranges_outside_the_data_area_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = Container::open(&uri, Cache::Page, ME, None, 1).unwrap();
    let end = 16 * SEGMENT;
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(open.write(end - 1, &[0; 2], false)), libc::EINVAL);
    assert_eq!(errno(open.read(u64::MAX, &mut [0; 2])), libc::EINVAL);
    assert_eq!(errno(open.trim(end, 1)), libc::EINVAL);
    assert!(open.try_read(end, &mut [0]).unwrap().is_err());
}

#[test]
fn only_the_container_meant_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = |uri: &str, me, house| Container::open(uri, Cache::Page, me, house, 1);
    assert_eq!(open(&uri, [1; 16], None).unwrap_err().errno, libc::EINVAL);
    assert_eq!(
        open(&uri, ME, Some([1; 16])).unwrap_err().errno,
        libc::EINVAL
    );
    assert_eq!(
        open(&uri_in(&folder, "none"), ME, None).unwrap_err().errno,
        libc::ENOENT
    );
    assert_eq!(
        open("http://box", ME, None).unwrap_err().errno,
        libc::EINVAL
    );
    let file = std::fs::File::options()
        .write(true)
        .open(folder.path().join("box"))
        .unwrap();
    file.set_len(DATA_AT_BYTES + 15 * SEGMENT).unwrap();
    let error = open(&uri, ME, None).unwrap_err();
    assert!(error.what.contains("shorter"), "{error}");
}

#[test]
fn making_a_container_spares_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let again = |me| {
        create(
            &uri,
            DATA_AT_BYTES + 16 * SEGMENT,
            SEGMENT,
            me,
            HOUSE,
            1,
            Cache::Page,
        )
    };
    assert_eq!(
        again(ME).unwrap(),
        inspect(&uri).unwrap().unwrap(),
        "a cut-off attempt repeated"
    );
    let open = Container::open(&uri, Cache::Page, ME, None, 1).unwrap();
    assert_eq!(again([3; 16]).unwrap_err().errno, libc::EEXIST, "in use");
    open.stamp(1, 1).unwrap();
    drop(open);
    assert_eq!(again([3; 16]).unwrap_err().errno, libc::EEXIST, "was used");
    std::fs::write(folder.path().join("notes"), "mine").unwrap();
    let notes = uri_in(&folder, "notes");
    assert!(inspect(&notes).unwrap().is_none());
    let taken = create(&notes, 1 << 30, SEGMENT, ME, HOUSE, 1, Cache::Page);
    assert_eq!(taken.unwrap_err().errno, libc::EEXIST);
    assert_eq!(std::fs::read(folder.path().join("notes")).unwrap(), b"mine");
    for (size, segment) in [
        (DATA_AT_BYTES, SEGMENT),
        (1 << 30, 1 << 15),
        (1 << 30, 3 << 16),
    ] {
        let bad = create(
            &uri_in(&folder, "bad"),
            size,
            segment,
            ME,
            HOUSE,
            1,
            Cache::Page,
        );
        assert_eq!(bad.unwrap_err().errno, libc::EINVAL);
    }
    assert!(!folder.path().join("bad").exists());
}

#[test]
fn what_a_cut_off_attempt_left_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box");
    let uri = uri_in(&folder, "box");
    let size = DATA_AT_BYTES + 16 * SEGMENT;
    let make = |me, house| create(&uri, size, SEGMENT, me, house, 1, Cache::Page);
    // Cut off between the file's length and its header.
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    let header = make(ME, HOUSE).unwrap();
    assert!(!header.created, "it was there before");
    // Cut off between the header and the commit that names the container: a new identity comes.
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"old", DATA_AT_BYTES)
        .unwrap();
    assert_eq!(make([3; 16], [4; 16]).unwrap_err().errno, libc::EEXIST);
    assert_eq!(make([3; 16], HOUSE).unwrap().container, [3; 16]);
    let open = Container::open(&uri, Cache::Page, [3; 16], Some(HOUSE), 1).unwrap();
    let mut back = [1; 3];
    open.read(0, &mut back).unwrap();
    assert_eq!(back, [0; 3], "clean means that it reads as zeroes");
}

#[test]
fn what_a_newer_term_made_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let uri = uri_in(&folder, "box");
    let size = DATA_AT_BYTES + 16 * SEGMENT;
    let make = |me, term| create(&uri, size, SEGMENT, me, HOUSE, term, Cache::Page);
    make(ME, 3).unwrap();
    // Its controller has committed it and died before a stamp: term 2, which woke, is refused.
    assert_eq!(make([2; 16], 2).unwrap_err().errno, libc::EEXIST);
    assert_eq!(inspect(&uri).unwrap().unwrap().container, ME);
    assert_eq!(make([3; 16], 3).unwrap().container, [3; 16]);
    assert_eq!(make([4; 16], 4).unwrap().container, [4; 16]);
    let open = Container::open(&uri, Cache::Page, [4; 16], Some(HOUSE), 1).unwrap();
    open.stamp(4, 9).unwrap();
    drop(open);
    assert_eq!(make([5; 16], 5).unwrap_err().errno, libc::EEXIST);
}

#[test]
fn storage_given_back_is_deleted_if_segue_made_it_and_nobodys_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box");
    let uri = made(&folder, Cache::Page);
    remove(&uri, [3; 16], Cache::Page).unwrap();
    assert!(path.exists(), "another container's");
    remove(&uri, ME, Cache::Page).unwrap();
    assert!(!path.exists());
    remove(&uri, ME, Cache::Page).unwrap();
    std::fs::File::create(&path).unwrap();
    made(&folder, Cache::Page);
    remove(&uri, ME, Cache::Page).unwrap();
    assert!(path.exists(), "the file was there before the container");
    assert!(inspect(&uri).unwrap().is_none());
}

#[test]
fn ranges_are_zeroed_to_the_byte() {
    for cache in [Cache::Page, Cache::Direct] {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let uri = made(&folder, cache);
        let open = Container::open(&uri, cache, ME, None, 1).unwrap();
        for (first, end) in [(100, 200), (100, 9000), (4096, 8192), (5000, 16384), (0, 1)] {
            open.write(0, &[5; 16384], false).unwrap();
            open.zero_exactly(first, end - first).unwrap();
            let mut back = vec![1; 16384];
            open.read(0, &mut back).unwrap();
            for (at, byte) in back.iter().enumerate() {
                let within = (first..end).contains(&(at as u64));
                assert_eq!(
                    *byte,
                    if within { 0 } else { 5 },
                    "{cache:?} {first} {end} {at}"
                );
            }
        }
    }
}

#[test]
fn a_fence_ends_with_its_description() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = |fence| Container::open(&uri, Cache::Page, ME, None, fence);
    let big = (1 << 61) - 6;
    let (agent, controller) = (open(big).unwrap(), open(4).unwrap());
    assert!(!controller.fence_ended(big, Ending::Ask).unwrap());
    assert!(
        controller.fence_ended(big - 1, Ending::Ask).unwrap(),
        "fences are told apart"
    );
    assert_eq!(open(big).unwrap_err().errno, libc::EBUSY);
    assert_eq!(open(1 << 61).unwrap_err().errno, libc::EINVAL);
    drop(agent);
    assert!(controller.fence_ended(big, Ending::Ask).unwrap());
    open(big).unwrap();
}

#[test]
fn stamps_over_one_handle_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = Container::open(&uri, Cache::Page, ME, None, 1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| open.stamp(1, 1).unwrap()));
        }
    });
    assert_eq!(open.read_header().unwrap().sequence, 200, "one was lost");
}

#[test]
fn stamps_are_written_in_turn_and_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let uri = made(&folder, Cache::Page);
    let open = Container::open(&uri, Cache::Page, ME, None, 1).unwrap();
    for commit in 1..=5 {
        open.stamp(3, commit).unwrap();
        let header = open.read_header().unwrap();
        assert_eq!(
            (header.term, header.commit, header.sequence),
            (3, commit, commit)
        );
    }
    assert_eq!(
        open.stamp(3, 4).unwrap_err().raw_os_error(),
        Some(libc::ESTALE)
    );
    assert_eq!(
        open.stamp(2, 9).unwrap_err().raw_os_error(),
        Some(libc::ESTALE)
    );
    open.stamp(4, 1).unwrap();
    // A torn write of the newer slot leaves the older one.
    let file = std::fs::File::options()
        .write(true)
        .open(folder.path().join("box"))
        .unwrap();
    file.write_all_at(&[0xff; 8], 100).unwrap();
    let header = inspect(&uri).unwrap().unwrap();
    assert_eq!((header.term, header.commit, header.sequence), (3, 5, 5));
    file.write_all_at(&[0xff; 8], 4096 + 100).unwrap();
    let error = inspect(&uri).unwrap_err();
    assert!(error.what.contains("damaged"), "{error}");
}

#[test]
fn nobody_stamps_what_is_another_container_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("box");
    std::fs::File::create(&path).unwrap();
    let uri = made(&folder, Cache::Page);
    // An older controller, stopped meanwhile, has it open.
    let old = Container::open(&uri, Cache::Page, ME, Some(HOUSE), 1).unwrap();
    remove(&uri, ME, Cache::Page).unwrap();
    std::fs::File::create(&path).unwrap();
    let size = DATA_AT_BYTES + 16 * SEGMENT;
    let new = create(&uri, size, SEGMENT, [3; 16], [4; 16], 1, Cache::Page).unwrap();
    let error = old.stamp(5, 300).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(inspect(&uri).unwrap(), Some(new));
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    let header = Header {
        installation: HOUSE,
        container: ME,
        segment_bytes: SEGMENT,
        segments: 16,
        write_unit_bytes: 512,
        created: false,
        clean: false,
        term: 1,
        commit: 2,
        sequence: 3,
    };
    let good = header.encode();
    assert_eq!(Header::decode(&good), Slot::Valid(header));
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!matches!(Header::decode(&bad), Slot::Valid(_)), "bit {bit}");
    }
}

#[test]
fn uris_are_taken_apart() {
    let parsed = ContainerUri::parse("faulty+forgetful+file:///a%20b/%C3%A9").unwrap();
    assert_eq!(parsed.path().to_str(), Some("/a b/é"));
    for bad in [
        "/plain",
        "file://host/x",
        "faulty+nbd://x",
        "nbd:///x",
        "nbd://x:port/",
        "nbd+unix:///x",
        "nbd://x/?on-loss=sleep",
        "odd+file:///x",
        "file:///%zz",
        "file:///%00",
    ] {
        assert!(ContainerUri::parse(bad).is_err(), "{bad}");
    }
}
