//! Hosts served through real sockets: what is written is read back, whatever the container.

mod rig;

use rig::{DISK_BYTES, Policy, Rig, SEGMENT};
use segue_io::client::Client;
use segue_nbd::consts as c;

/// A small generator; the seed is in every message.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Random I/O of any alignment over several segments, against a model.
fn soak(client: &mut Client, seed: u64, steps: u32, area: std::ops::Range<u64>) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let size = (area.end - area.start) as usize;
    let mut model = vec![0u8; size];
    let mut back = vec![0u8; size];
    client.zero(area.start, size as u64, 0).unwrap();
    for step in 0..steps {
        let at = random.below(size as u64 - 1) as usize;
        let mut length = 1 + random.below((size - at).min(150_000) as u64) as usize;
        if random.below(3) == 0 {
            length = length.min(1 + random.below(5000) as usize);
        }
        let offset = area.start + at as u64;
        let fua = if random.below(8) == 0 {
            c::CMD_FLAG_FUA
        } else {
            0
        };
        match random.below(10) {
            0..=4 => {
                let byte = random.below(255) as u8 + 1;
                let data: Vec<u8> = (0..length).map(|n| byte ^ (n / 512) as u8).collect();
                client.write(offset, &data, fua).unwrap();
                model[at..at + length].copy_from_slice(&data);
            }
            5 => {
                let hole = if random.below(2) == 0 {
                    c::CMD_FLAG_NO_HOLE
                } else {
                    0
                };
                client.zero(offset, length as u64, fua | hole).unwrap();
                model[at..at + length].fill(0);
            }
            6 => {
                client.trim(offset, length as u64, fua).unwrap();
                // Each byte reads as before or as zero from here on; take what it is.
                client.read(area.start, &mut back).unwrap();
                for (index, (&was, &is)) in model.iter().zip(&back).enumerate() {
                    let trimmed = (at..at + length).contains(&index);
                    assert!(
                        is == was || (trimmed && is == 0),
                        "seed {seed} step {step} {index}"
                    );
                }
                model.copy_from_slice(&back);
            }
            7 => client.flush().unwrap(),
            _ => {
                client.read(offset, &mut back[..length]).unwrap();
                assert!(
                    back[..length] == model[at..at + length],
                    "seed {seed} step {step}"
                );
            }
        }
    }
    client.read(area.start, &mut back).unwrap();
    assert!(back == model, "seed {seed} at the end");
    let status = client.block_status(area.start, size as u64).unwrap();
    let mut at = 0;
    for (length, flags) in status {
        if flags & c::STATE_ZERO != 0 {
            assert!(back[at..at + length as usize].iter().all(|&byte| byte == 0));
        }
        at += length as usize;
    }
    assert_eq!(at, size);
}

#[test]
fn page_cache() {
    let rig = Rig::leased("", "page", Policy::Grants);
    soak(&mut rig.connect(), 1, 600, 1000..1000 + 9 * SEGMENT);
}

#[test]
fn direct() {
    let rig = Rig::leased("", "direct", Policy::Grants);
    soak(&mut rig.connect(), 2, 400, 1000..1000 + 9 * SEGMENT);
}

#[test]
fn wrappers() {
    let rig = Rig::leased("faulty+forgetful+", "page", Policy::Grants);
    std::fs::write(
        rig.folder.path().join("box.faults"),
        "delay read 50\ndelay write 30\n",
    )
    .unwrap();
    soak(&mut rig.connect(), 3, 200, 1000..1000 + 4 * SEGMENT);
}

#[test]
fn several_connections_at_once() {
    for cache in ["page", "direct"] {
        let rig = Rig::leased("", cache, Policy::Grants);
        std::thread::scope(|scope| {
            for host in 0..4 {
                let mut client = rig.connect();
                // Areas share segments and, in O_DIRECT, blocks and units.
                let start = host * (3 * SEGMENT + 777);
                scope.spawn(move || soak(&mut client, 10 + host, 150, start..start + 3 * SEGMENT));
            }
        });
    }
}

#[test]
fn the_largest_request() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut client = rig.connect();
    assert_eq!(client.negotiated().payload_bytes_max(), 32 << 20);
    let data: Vec<u8> = (0..32u32 << 20).map(|n| (n % 253) as u8).collect();
    client.write(4097, &data, 0).unwrap();
    let mut back = vec![0; data.len()];
    client.read(4097, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn requests_beyond_the_end() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut client = rig.connect();
    assert_eq!(client.negotiated().size_bytes, DISK_BYTES);
    client.write(DISK_BYTES - 1, &[1], 0).unwrap();
    // The client refuses to send what goes beyond the end, so the edge is all there is to see.
    client.read(DISK_BYTES - 4096, &mut [0; 4096]).unwrap();
    assert_eq!(
        client.write(DISK_BYTES, &[1], 0).unwrap_err().errno(),
        libc::EINVAL
    );
    client.read(0, &mut [0; 16]).unwrap();
}

#[test]
fn tcp_serves_the_same() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let port = rig.plane.listen_tcp("127.0.0.1", 0).unwrap();
    let address = format!("nbd://127.0.0.1:{port}");
    let names: Vec<_> = Client::list(&address)
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["disk", "other"]);
    let mut client = Client::connect(&address, "disk").unwrap();
    client.write(123, b"over TCP", 0).unwrap();
    let mut back = [0; 8];
    rig.connect().read(123, &mut back).unwrap();
    assert_eq!(&back, b"over TCP");
    client.disconnect().unwrap();
    let error = Client::connect(&address, "nothing").unwrap_err();
    assert_eq!(error.errno(), libc::ENOENT, "{error}");
}
