//! Hosts that break the protocol, vanish, or never read: nobody else notices.

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rig::raw::{is_closed, option, request};
use rig::{Policy, Rig};

/// Through the handshake by OPT_EXPORT_NAME, without trailing zeroes.
fn entered(rig: &Rig) -> UnixStream {
    let mut stream = rig.raw();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(&option(1, b"disk")).unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).unwrap();
    stream
}

#[test]
fn garbage_costs_its_own_connection_only() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut good = rig.connect();
    good.write(0, &[3; 4096], 0).unwrap();
    let mut random = 12345u64;
    for round in 0..200 {
        let mut stream = if round % 2 == 0 {
            rig.raw()
        } else {
            entered(&rig)
        };
        let mut bytes = vec![0; 1 + round * 7];
        for byte in &mut bytes {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (random >> 56) as u8;
        }
        // It may hang up in the middle of this.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(is_closed(&stream), "round {round}");
        let mut back = [0; 4096];
        good.read(0, &mut back).unwrap();
        assert_eq!(back, [3; 4096]);
    }
    assert!(rig.count("protocol_errors") > 100);
}

#[test]
fn a_write_cut_off_in_its_payload_writes_nothing() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut good = rig.connect();
    good.write(0, &[3; 8192], 0).unwrap();
    let mut stream = entered(&rig);
    stream.write_all(&request(1, 1, 0, 8192)).unwrap();
    stream.write_all(&[9; 8191]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(&stream));
    let mut back = [0; 8192];
    good.read(0, &mut back).unwrap();
    assert_eq!(back, [3; 8192]);
}

#[test]
fn what_was_sent_before_the_end_of_the_stream_is_answered() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut stream = entered(&rig);
    let mut bytes = Vec::new();
    for cookie in 0..50u64 {
        bytes.extend(request(1, cookie, cookie * 512, 512));
        bytes.extend([cookie as u8; 512]);
    }
    stream.write_all(&bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len(), 50 * 16);
    assert!(replies.chunks(16).all(|reply| reply[4..8] == [0; 4]));
    let mut back = [0; 512];
    rig.connect().read(49 * 512, &mut back).unwrap();
    assert_eq!(back, [49; 512]);
}

#[test]
fn a_host_that_never_reads_holds_up_nobody() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut good = rig.connect();
    good.write(0, &[3; 1 << 20], 0).unwrap();
    let mut lazy = entered(&rig);
    lazy.set_nonblocking(true).unwrap();
    // 4,000 reads of 1 MiB: far more than may be held for one connection.
    let asked = (0..4000).take_while(|&cookie| {
        let request = request(0, cookie, 0, 1 << 20);
        matches!(lazy.write(&request), Ok(count) if count == request.len())
    });
    assert!(asked.count() > 100);
    let mut back = vec![0; 1 << 20];
    for _ in 0..20 {
        good.read(0, &mut back).unwrap();
    }
    let read = rig.count("bytes_read");
    assert!(
        read <= (100 << 20) + (20 << 20),
        "{read} bytes read for a host that takes none"
    );
    drop(lazy);
    good.read(0, &mut back).unwrap();
    assert_eq!(back, vec![3; 1 << 20]);
}

#[test]
fn parked_writes_have_a_limit_and_other_disks_do_not_feel_it() {
    let rig = Rig::leased("", "page", Policy::Opens);
    let mut stream = entered(&rig);
    stream.set_nonblocking(true).unwrap();
    // The limit is 8 MiB; what is sent beyond it stays in the socket.
    let mut bytes = request(1, 0, 0, 1 << 20);
    bytes.extend(vec![1; 1 << 20]);
    let mut sent = 0usize;
    let mut stuck = 0;
    while sent < 64 * bytes.len() && stuck < 20_000 {
        match stream.write(&bytes[sent % bytes.len()..]) {
            Ok(count) => (sent, stuck) = (sent + count, 0),
            Err(_) => {
                stuck += 1;
                std::thread::yield_now();
            }
        }
    }
    assert!(sent < 12 << 20, "{sent} bytes were taken");
    let port = rig.plane.listen_tcp("127.0.0.1", 0).unwrap();
    let address = format!("nbd://127.0.0.1:{port}");
    assert_eq!(segue_io::client::Client::list(&address).unwrap().len(), 2);
}
