use alloc::vec;
use alloc::vec::Vec;

use super::{Coverage, CoverageError, InFlight, PIECES_MAX};
use crate::client::{Command, Request};

const READ: Request = Request {
    command: Command::Read,
    flags: 0,
    offset: 0,
    length: 1,
};

/// Against a slow obvious oracle: one flag a byte.
#[test]
fn coverage_agrees_with_a_byte_map() {
    const LENGTH: usize = 12;
    let mut seed: u64 = 1;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut coverage = Coverage::default();
        let mut map = [false; LENGTH];
        while map.iter().any(|covered| !covered) {
            let start = next(LENGTH);
            let end = (start + 1 + next(3)).min(LENGTH);
            let overlaps = map[start..end].iter().any(|covered| *covered);
            let expected = if overlaps {
                Err(CoverageError::Overlap)
            } else {
                Ok(())
            };
            assert_eq!(
                coverage.add(start as u32, end as u32),
                expected,
                "{map:?} {start} {end}"
            );
            if !overlaps {
                map[start..end].fill(true);
            }
            let complete = map.iter().all(|covered| *covered);
            assert_eq!(coverage.is_complete(LENGTH as u32), complete, "{map:?}");
        }
        assert!(coverage.runs.is_empty());
    }
}

#[test]
fn coverage_bounds_its_runs() {
    let mut coverage = Coverage::default();
    for run in 0..PIECES_MAX as u32 {
        assert_eq!(coverage.add(2 * run + 1, 2 * run + 2), Ok(()));
    }
    let next = 2 * PIECES_MAX as u32 + 1;
    assert_eq!(
        coverage.add(next, next + 1),
        Err(CoverageError::TooManyRuns)
    );
}

#[test]
fn a_cookie_of_an_ended_request_finds_nothing() {
    let mut in_flight = InFlight::default();
    let first = in_flight.insert(READ);
    assert!(in_flight.remove(first).is_some());
    let second = in_flight.insert(READ);
    assert_ne!(first, second);
    assert!(in_flight.get_mut(first).is_none());
    assert!(in_flight.remove(first).is_none());
    assert!(in_flight.get_mut(second).is_some());
    assert_eq!(in_flight.len(), 1);
}

#[test]
fn cookies_in_flight_are_distinct() {
    let mut in_flight = InFlight::default();
    let mut cookies: Vec<u64> = (0..100).map(|_| in_flight.insert(READ)).collect();
    for cookie in cookies.drain(..50).collect::<Vec<_>>() {
        assert!(in_flight.remove(cookie).is_some());
    }
    cookies.extend((0..70).map(|_| in_flight.insert(READ)));
    let mut sorted = cookies.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), cookies.len());
    assert_eq!(in_flight.len(), 120);
    assert_ne!(sorted, vec![0; 120]);
}
