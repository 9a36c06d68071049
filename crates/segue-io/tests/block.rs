//! Block devices as containers, on loop devices (needs root and losetup).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use segue_io::container::{
    Cache, Container, DATA_AT_BYTES, Ending, ZeroHow, clear_head, create, inspect, refuse_contents,
    remove,
};

const MIB: u64 = 1 << 20;
const ME: [u8; 16] = [7; 16];
const HOUSE: [u8; 16] = [9; 16];

fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A loop device of its own, given back at the end.
struct Device {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Device {
    fn new(size_bytes: u64, sector: u32) -> Device {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        let sector = sector.to_string();
        let name = file.path().to_str().unwrap();
        let path = run("losetup", &["-f", "--show", "--sector-size", &sector, name]).into();
        Device { path, _file: file }
    }

    fn uri(&self) -> String {
        format!("block://{}", self.path.display())
    }

    fn make(&self, me: [u8; 16], house: [u8; 16]) -> Result<u64, i32> {
        let made = create(&self.uri(), 0, MIB, me, house, 1, Cache::Direct);
        made.map(|header| header.segments)
            .map_err(|error| error.errno)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run("losetup", &["-d", self.path.to_str().unwrap()]);
    }
}

#[test]
fn a_device_gives_its_capacity_its_unit_and_its_bytes() {
    for sector in [512, 4096] {
        let device = Device::new(9 * MIB + 12288, sector);
        let header = create(&device.uri(), 0, MIB, ME, HOUSE, 1, Cache::Direct).unwrap();
        assert_eq!((header.segments, header.write_unit_bytes), (8, sector));
        assert!(
            !header.clean && !header.created,
            "what a device holds is not known"
        );
        let open = Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), 1).unwrap();
        let unit = u64::from(sector);
        open.write(MIB, &vec![5; 4 * sector as usize], false)
            .unwrap();
        open.write(MIB + unit, &vec![6; sector as usize], true)
            .unwrap();
        open.zero(MIB + 2 * unit, unit, ZeroHow::default()).unwrap();
        let mut back = vec![1; 4 * sector as usize];
        open.read(MIB + 1, &mut back[1..]).unwrap();
        let seen = [1, 2, 3, 4].map(|n| back[n * sector as usize - 1]);
        assert_eq!(seen, [5, 6, 0, 5]);
        open.trim(0, 8 * MIB).unwrap();
        open.flush().unwrap();
        assert_eq!(
            open.write(8 * MIB, &[1; 4096], false)
                .unwrap_err()
                .raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}

#[test]
fn processes_of_one_machine_share_a_device_and_its_fences() {
    let device = Device::new(4 * MIB, 512);
    device.make(ME, HOUSE).unwrap();
    let open = |fence| Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), fence);
    let (agent, controller) = (open(3).unwrap(), open(4).unwrap());
    assert!(!controller.fence_ended(3, Ending::Ask).unwrap());
    assert_eq!(open(3).unwrap_err().errno, libc::EBUSY);
    drop(agent);
    assert!(controller.fence_ended(3, Ending::Ask).unwrap());
}

#[test]
fn a_device_in_use_is_refused_and_one_of_ours_is_claimed() {
    let device = Device::new(4 * MIB, 512);
    let claim = || {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(&device.path)
    };
    let held = claim().unwrap();
    assert_eq!(
        device.make(ME, HOUSE),
        Err(libc::EBUSY),
        "somebody else has it"
    );
    drop(held);
    assert_eq!(device.make(ME, HOUSE), Ok(3));
    let open = Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), 1).unwrap();
    assert_eq!(
        claim().unwrap_err().raw_os_error(),
        Some(libc::EBUSY),
        "it can be mounted"
    );
    drop(open);
    // A process that another test starts at this moment may have it until its exec.
    let deadline = Instant::now() + Duration::from_secs(20);
    let held = loop {
        match claim() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                assert!(Instant::now() < deadline, "it is still claimed");
                std::thread::yield_now();
            }
            claimed => break claimed.unwrap(),
        }
    };
    let refused = Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), 1);
    assert_eq!(refused.unwrap_err().errno, libc::EBUSY);
    drop(held);
    Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), 1).unwrap();
}

#[test]
fn another_node_of_a_claimed_device_is_refused() {
    let device = Device::new(4 * MIB, 512);
    device.make(ME, HOUSE).unwrap();
    let number = run(
        "lsblk",
        &["-dnro", "MAJ:MIN", device.path.to_str().unwrap()],
    );
    let (major, minor) = number.split_once(':').unwrap();
    let folder = tempfile::tempdir_in("/dev").unwrap();
    let node = folder.path().join("node");
    run("mknod", &[node.to_str().unwrap(), "b", major, minor]);
    let other = format!("block://{}", node.display());
    let _open = Container::open(&device.uri(), Cache::Direct, ME, Some(HOUSE), 1).unwrap();
    let refused = Container::open(&other, Cache::Direct, ME, Some(HOUSE), 2);
    assert_eq!(
        refused.unwrap_err().errno,
        libc::EBUSY,
        "its locks would not be seen"
    );
}

#[test]
fn making_spares_what_is_there_and_giving_back_leaves_a_device_for_others() {
    let device = Device::new(4 * MIB, 512);
    let raw = File::options().write(true).open(&device.path).unwrap();
    raw.write_all_at(b"a file system", 65536).unwrap();
    raw.sync_all().unwrap();
    assert_eq!(device.make(ME, HOUSE), Err(libc::EEXIST));
    raw.write_all_at(&[0; 16], 65536).unwrap();
    raw.sync_all().unwrap();
    drop(raw);
    let big = create(&device.uri(), 5 * MIB, MIB, ME, HOUSE, 1, Cache::Direct);
    assert!(big.unwrap_err().what.contains("has 4194304 bytes"));
    let cached = create(&device.uri(), 0, MIB, ME, HOUSE, 1, Cache::Page);
    assert_eq!(cached.unwrap_err().errno, libc::EINVAL);
    let few = create(
        &device.uri(),
        DATA_AT_BYTES + MIB,
        MIB,
        ME,
        HOUSE,
        1,
        Cache::Direct,
    );
    assert_eq!(few.unwrap().segments, 1);
    assert_eq!(
        device.make([3; 16], HOUSE),
        Ok(3),
        "left by an attempt that was cut off"
    );
    let open = Container::open(&device.uri(), Cache::Direct, [3; 16], Some(HOUSE), 1).unwrap();
    open.stamp(1, 1).unwrap();
    drop(open);
    assert_eq!(device.make(ME, HOUSE), Err(libc::EEXIST));
    assert_eq!(device.make(ME, [8; 16]), Err(libc::EEXIST));
    remove(&device.uri(), [3; 16], Cache::Direct).unwrap();
    assert!(inspect(&device.uri()).unwrap().is_none());
    assert_eq!(device.make(ME, [8; 16]), Ok(3));
    let file = device.uri().replace("block://", "file://");
    assert_eq!(
        create(&file, 4 * MIB, MIB, ME, HOUSE, 1, Cache::Page)
            .unwrap_err()
            .errno,
        libc::EEXIST
    );
    let other = create("block:///etc/passwd", 0, MIB, ME, HOUSE, 1, Cache::Direct);
    assert!(other.unwrap_err().what.contains("no block device"));
}

#[test]
fn what_lies_behind_the_first_mib_is_found_and_given_up_only_when_asked() {
    let device = Device::new(4 * MIB, 512);
    let raw = File::options().write(true).open(&device.path).unwrap();
    raw.write_all_at(b"precious", 2 * MIB + 100).unwrap();
    raw.write_all_at(b"a head", 70_000).unwrap();
    raw.sync_all().unwrap();
    let uri = device.uri();
    let head = refuse_contents(&uri, 0).unwrap_err();
    assert_eq!(head.errno, libc::EEXIST);
    assert!(head.what.contains("first MiB holds something") && head.what.contains("byte 70000"));
    raw.write_all_at(&[0; 512], 70_000).unwrap();
    raw.sync_all().unwrap();
    let behind = refuse_contents(&uri, 0).unwrap_err();
    assert!(behind.what.contains("byte 2097252"), "{}", behind.what);
    refuse_contents(&uri, 2 * MIB).expect("what is not used may hold anything");
    raw.write_all_at(b"a head", 70_000).unwrap();
    drop(raw);
    assert_eq!(device.make(ME, HOUSE), Err(libc::EEXIST));
    clear_head(&uri).unwrap();
    assert_eq!(device.make(ME, HOUSE), Ok(3));
    assert_eq!(clear_head(&uri).unwrap_err().errno, libc::EEXIST);
    refuse_contents(&uri, 0).expect("of a container, making judges");
    let file = uri.replace("block://", "file://");
    assert_eq!(clear_head(&file).unwrap_err().errno, libc::EINVAL);
}
