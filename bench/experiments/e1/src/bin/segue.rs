//! Segue's own data plane for E1's harness: one disk, all of it mapped, no controller.
//!
//! `segue FILE SOCKET page|direct`: makes a container at FILE + `.segue`, as large as FILE, filled
//! from it, and serves it on SOCKET. A peer works on FILE itself.

use std::path::Path;

use segue_io::container::{self, Cache, Container, DATA_AT_BYTES};
use segue_io::plane::{Export, HostLimits, Plane, PlaneEvent};
use segue_io::sys::boottime_ns;
use segue_map::{Config, ContainerSpec, Control, Entry, EntryRun, PIECES_AT_ONCE};

const SEGMENT_BYTES: u64 = 1 << 20;
const DISK: u32 = 1;

fn filled(file: &str, cache: &str) -> ContainerSpec {
    let size_bytes = std::fs::metadata(file).expect("the file").len();
    let uri = format!("file://{file}.segue-{cache}");
    let _ = std::fs::remove_file(format!("{file}.segue-{cache}"));
    let way = Cache::parse(cache).expect("page or direct");
    let all_bytes = DATA_AT_BYTES + size_bytes;
    let header = container::create(&uri, all_bytes, SEGMENT_BYTES, [1; 16], [2; 16], 1, way)
        .expect("a container");
    let open = Container::open(&uri, way, [1; 16], None, 1).expect("the container");
    let data = std::fs::read(file).expect("the file's bytes");
    for (segment, bytes) in (0..).zip(data.chunks(SEGMENT_BYTES as usize)) {
        open.write(segment * SEGMENT_BYTES, bytes, false)
            .expect("room for the data");
    }
    open.flush().expect("a flush");
    ContainerSpec {
        container: 1,
        uri,
        identity: [1; 16],
        segment_bytes: SEGMENT_BYTES,
        segments: header.segments,
        cache: cache.into(),
        write_unit_bytes: header.write_unit_bytes,
        failed: false,
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let spec = filled(&args[1], &args[3]);
    let (segments, size_bytes) = (spec.segments, spec.segments * SEGMENT_BYTES);
    let config = Config {
        park_limit_bytes: 64 << 20,
        host_timeout_ns: None,
        pieces_at_once: PIECES_AT_ONCE,
    };
    let plane = Plane::new(2, config, HostLimits::default()).expect("a data plane");
    plane.set_lease(boottime_ns() + 86_400_000_000_000);
    plane.deliver(Control::NewTable {
        command: 1,
        disk: DISK,
        size_bytes,
        segment_bytes: SEGMENT_BYTES,
        block_bytes: 4096,
        read_only: false,
        containers: vec![spec],
    });
    let runs = vec![EntryRun {
        first: 0,
        count: segments,
        word: Entry::at(1, 0).0,
        step: 1,
    }];
    plane.deliver(Control::SetEntry {
        command: 2,
        disk: DISK,
        runs,
        blocking: false,
    });
    plane.listen_unix(Path::new(&args[2])).expect("a socket");
    let mut poll = libc::pollfd {
        fd: plane.fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        unsafe { libc::poll(&mut poll, 1, -1) };
        for event in plane.events() {
            if let PlaneEvent::WantExport { token, .. } = event {
                let disk = DISK;
                let export = Export {
                    disk,
                    size_bytes,
                    block_bytes: 4096,
                    read_only: false,
                };
                plane.export_answer(token, Ok(export));
            }
        }
    }
}
