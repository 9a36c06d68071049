//! What hosts may take of an agent: time for a handshake, connections, memory (promise P9).

mod rig;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rig::raw::{is_closed, option, option_reply, request};
use rig::{Policy, Rig};
use segue_io::client::Client;
use segue_io::plane::{HostLimits, PlaneEvent};

const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const MS_NS: u64 = 1_000_000;

/// The data of OPT_INFO for the only disk.
const INFO: &[u8] = b"\0\0\0\x04disk\0\0";

/// A client that has read the greeting and sent its flags.
fn greeted(rig: &Rig) -> UnixStream {
    let mut stream = rig.raw();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream
}

fn limited(policy: Policy, limits: HostLimits) -> Rig {
    Rig::limited("", "page", policy, None, limits).with_lease()
}

#[test]
fn a_handshake_has_a_time_to_be_over_in() {
    let limits = HostLimits {
        handshake_ns: 1000 * MS_NS,
        ..HostLimits::default()
    };
    let rig = limited(Policy::Grants, limits);
    let mut good = rig.connect();
    let silent = rig.raw();
    let mut cut_off = greeted(&rig);
    cut_off.write_all(&option(OPT_LIST, b"")[..10]).unwrap();
    let mut long = greeted(&rig);
    long.write_all(&option(OPT_INFO, &[0; 1000])[..500])
        .unwrap();
    for stream in [&silent, &cut_off, &long] {
        assert!(is_closed(stream));
    }
    assert_eq!(rig.count("handshakes_ended"), 3);
    good.write(0, &[3; 4096], 0).unwrap();
}

#[test]
fn the_agents_time_is_not_the_clients() {
    let limits = HostLimits {
        handshake_ns: 1000 * MS_NS,
        ..HostLimits::default()
    };
    let rig = limited(Policy::Silent, limits);
    let mut asking = greeted(&rig);
    asking.write_all(&option(OPT_INFO, INFO)).unwrap();
    let token = rig.wait("question", |event| match event {
        PlaneEvent::WantExport { token, .. } => Some(*token),
        _ => None,
    });
    // Connected later, so its time ends after the other's would have.
    assert!(is_closed(&rig.raw()));
    rig.plane.export_answer(token, Err(libc::ENOENT));
    let (kind, why) = option_reply(&mut asking);
    assert_eq!((kind, &why[..]), (0x8000_0006, &b"no such disk"[..]));
    assert!(is_closed(&asking), "the rest of its time");
}

#[test]
fn connections_beyond_the_limits_are_refused_with_the_reason() {
    let limits = |connections_max, disk_connections_max| HostLimits {
        connections_max,
        disk_connections_max,
        ..HostLimits::default()
    };
    for (limits, why) in [
        (limits(2, 128), "serves 2 connections already"),
        (limits(1024, 2), "the disk has 2 connections already"),
    ] {
        let rig = limited(Policy::Grants, limits);
        let (one, mut two) = (rig.connect(), rig.connect());
        let socket = rig.socket();
        let refused = Client::connect(socket.to_str().unwrap(), "disk").unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
        two.write(0, &[3; 4096], 0).unwrap();
        drop(one);
        rig.wait_count("connections", 1);
        rig.connect().read(0, &mut [0; 4096]).unwrap();
    }
}

#[test]
fn a_silent_crowd_shuts_nobody_out() {
    let rig = limited(Policy::Grants, HostLimits::default());
    let mut good = rig.connect();
    let crowd: Vec<UnixStream> = (0..256).map(|_| rig.raw()).collect();
    rig.wait_count("connections", 257);
    rig.connect().write(0, &[3; 4096], 0).unwrap();
    assert!(is_closed(&crowd[0]), "the first made room");
    assert_eq!(rig.count("handshakes_ended"), 1);
    good.read(0, &mut [0; 4096]).unwrap();
}

#[test]
fn an_option_is_answered_before_the_next_is_looked_at() {
    let rig = limited(Policy::Grants, HostLimits::default());
    let mut eager = greeted(&rig);
    let all = option(OPT_LIST, b"").repeat(1024);
    let mut sender = eager.try_clone().unwrap();
    let sent = std::thread::spawn(move || {
        sender.write_all(&all).unwrap();
        sender
    });
    for _ in 0..1024 {
        // Two names and the ACK.
        let kinds = [0; 3].map(|_| option_reply(&mut eager).0);
        assert_eq!(kinds, [2, 2, 1]);
    }
    let mut sender = sent.join().unwrap();
    sender.write_all(&option(OPT_LIST, b"")).unwrap();
    assert!(is_closed(&eager), "one too many");
}

/// The errno of the next reply to a read of 1 MiB.
fn read_reply(stream: &mut UnixStream) -> u32 {
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    let errno = u32::from_be_bytes(head[4..8].try_into().unwrap());
    if errno == 0 {
        stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
    }
    errno
}

#[test]
fn what_timed_out_and_is_still_under_way_counts() {
    let timeout = Some(1000 * MS_NS);
    let limits = HostLimits::default();
    let rig = Rig::limited("faulty+", "page", Policy::Grants, timeout, limits).with_lease();
    let mut client = rig.connect();
    for mib in 0..2 {
        client.write(mib << 20, &vec![3; 1 << 20], 0).unwrap();
    }
    let mut host = greeted(&rig);
    host.write_all(&option(1, b"disk")).unwrap();
    host.read_exact(&mut [0; 10]).unwrap();
    // Whoever reads the rules from now on is held until nobody can write them any more.
    let (made, rules) = (
        rig.folder.path().join("fifo"),
        rig.folder.path().join("box.faults"),
    );
    assert!(
        Command::new("mkfifo")
            .arg(&made)
            .status()
            .unwrap()
            .success()
    );
    let gate = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&made)
        .unwrap();
    std::fs::rename(&made, &rules).unwrap();
    let before = rig.count("requests");
    for cookie in 0..68 {
        host.write_all(&request(0, cookie, 0, 1 << 20)).unwrap();
    }
    // A connection holds 64 MiB.
    for _ in 0..64 {
        assert_eq!(read_reply(&mut host), 5);
    }
    let listed = Client::list(&format!("nbd+unix:///?socket={}", rig.socket().display()));
    assert_eq!(listed.unwrap().len(), 2, "others are served");
    assert_eq!(rig.count("requests") - before, 64);
    std::fs::remove_file(&rules).unwrap();
    drop(gate);
    for _ in 64..68 {
        assert_eq!(read_reply(&mut host), 0);
    }
}
