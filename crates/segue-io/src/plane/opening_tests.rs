//! Who is opened beside whom.

use super::*;

fn spec(container: u16) -> ContainerSpec {
    ContainerSpec {
        container,
        uri: format!("file:///{container}"),
        identity: [1; 16],
        segment_bytes: 1 << 20,
        segments: 10,
        cache: "page".into(),
        write_unit_bytes: 1,
        failed: false,
    }
}

fn table(disk: u32, containers: &[u16]) -> Control {
    Control::NewTable {
        command: u64::from(disk),
        disk,
        size_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        block_bytes: 4096,
        read_only: false,
        containers: containers.iter().copied().map(spec).collect(),
    }
}

fn wanted(openings: &mut Openings, disk: u32, containers: &[u16]) {
    let admitted = openings.admit(table(disk, containers), |_| None);
    assert!(matches!(admitted, Admitted::Later));
}

fn next(openings: &mut Openings, open: &[u16]) -> Option<(u64, Vec<u16>)> {
    let job = openings.next_job(|number| open.contains(&number))?;
    let containers = job.specs.iter().map(|spec| spec.container).collect();
    Some((job.number, containers))
}

#[test]
fn one_that_hangs_holds_up_those_that_need_it_alone() {
    let mut openings = Openings::new(1);
    wanted(&mut openings, 1, &[1]);
    wanted(&mut openings, 2, &[1, 2]);
    wanted(&mut openings, 3, &[3]);
    let (first, containers) = next(&mut openings, &[]).unwrap();
    assert_eq!(containers, [1]);
    let (third, containers) = next(&mut openings, &[]).unwrap();
    assert_eq!(containers, [3]);
    assert_eq!(next(&mut openings, &[]), None);
    assert_eq!(openings.job_ended(third).unwrap().len(), 1);
    assert_eq!(next(&mut openings, &[3]), None);
    assert_eq!(openings.job_ended(first).unwrap().len(), 1);
    let (_, containers) = next(&mut openings, &[1, 3]).unwrap();
    assert_eq!(containers, [2]);
}

#[test]
fn an_ended_sessions_job_keeps_its_containers_until_it_has_ended() {
    let mut openings = Openings::new(1);
    wanted(&mut openings, 1, &[1]);
    let (old, _) = next(&mut openings, &[]).unwrap();
    openings.cancel();
    wanted(&mut openings, 1, &[1]);
    wanted(&mut openings, 2, &[2]);
    let (other, containers) = next(&mut openings, &[]).unwrap();
    assert_eq!(containers, [2]);
    assert_eq!(next(&mut openings, &[]), None);
    assert!(openings.job_ended(old).is_none(), "nobody wants it");
    let (new, containers) = next(&mut openings, &[]).unwrap();
    assert_eq!(containers, [1]);
    assert!(openings.job_ended(new).is_some() && openings.job_ended(other).is_some());
}

#[test]
fn no_more_at_once_than_the_pool_can_spare() {
    let mut openings = Openings::new(1);
    for number in 1..=JOBS_AT_ONCE as u16 + 1 {
        wanted(&mut openings, u32::from(number), &[number]);
    }
    for _ in 0..JOBS_AT_ONCE {
        assert!(next(&mut openings, &[]).is_some());
    }
    assert_eq!(next(&mut openings, &[]), None);
    assert!(openings.job_ended(2).is_some());
    assert!(next(&mut openings, &[]).is_some());
}
