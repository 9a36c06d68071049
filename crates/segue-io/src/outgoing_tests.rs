//! What is to be sent arrives in order, and takes no more memory than it has bytes.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn a_client_that_never_takes_all_makes_nothing_grow() {
    let (server, mut client) = UnixStream::pair().unwrap();
    let (mut outgoing, mut buffers) = (Outgoing::default(), Buffers::default());
    let (mut queued, mut taken) = (0_u64, 0_u64);
    let mut back = [0; 8000];
    for round in 0..4000 {
        // More is always queued than the socket takes: it never becomes empty.
        while outgoing.bytes() < 100_000 {
            if queued % 50 == 0 && round % 3 == 0 {
                let buffer = buffers.take(8);
                // SAFETY: nobody else has the buffer.
                unsafe { buffer.part_mut(0, 8) }.copy_from_slice(&(queued + 1).to_le_bytes());
                outgoing.push_framed(&queued.to_le_bytes(), buffer, 8);
                queued += 2;
            } else {
                outgoing.push(&queued.to_le_bytes());
                queued += 1;
            }
        }
        let all_sent = outgoing.send(server.as_raw_fd(), &mut buffers).unwrap();
        if all_sent {
            continue;
        }
        client.read_exact(&mut back).unwrap();
        for number in back.chunks_exact(8) {
            assert_eq!(number, taken.to_le_bytes());
            taken += 1;
        }
        let bound = 2 * (outgoing.bytes() + SENT_BYTES_MAX) + 100_000;
        assert!(outgoing.arena.len() < bound, "{}", outgoing.arena.len());
    }
    assert!(taken * 8 > 20_000_000, "too little was sent to see it grow");
}
