//! The order in which syncs are handed over, one call after the other.

use std::sync::Arc;

use super::*;

/// Notes who was handed over, and whether a failure had overtaken it.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<(&'static str, bool)>>>);

impl Notes {
    fn of(&self, name: &'static str) -> HandOver {
        let notes = self.0.clone();
        Box::new(move |overtaken| notes.lock().unwrap().push((name, overtaken)))
    }

    fn take(&self) -> Vec<(&'static str, bool)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[test]
fn good_news_waits_for_what_began_before_it() {
    let (syncs, notes) = (Syncs::default(), Notes::default());
    let [first, second] = [syncs.begin(), syncs.begin()];
    syncs.end(second, false, notes.of("second"));
    assert_eq!(notes.take(), [], "the first may have been told instead");
    let third = syncs.begin();
    syncs.end(first, true, notes.of("first"));
    assert_eq!(notes.take(), [("first", false), ("second", true)]);
    syncs.end(third, false, notes.of("third"));
    assert_eq!(notes.take(), [("third", true)], "it had begun before");
    let later = syncs.begin();
    syncs.end(later, false, notes.of("later"));
    assert_eq!(notes.take(), [("later", false)]);
}

#[test]
fn good_news_waits_for_no_other_good_news() {
    let (syncs, notes) = (Syncs::default(), Notes::default());
    let [first, second, third] = [syncs.begin(), syncs.begin(), syncs.begin()];
    syncs.end(third, false, notes.of("third"));
    syncs.end(second, false, notes.of("second"));
    let late = syncs.begin();
    syncs.end(first, false, notes.of("first"));
    let all = [("third", false), ("second", false)];
    assert_eq!(
        notes.take(),
        all,
        "the last waits for one begun before it ended"
    );
    syncs.end(late, false, notes.of("late"));
    assert_eq!(notes.take(), [("first", false), ("late", false)]);
}

#[test]
fn what_begins_after_the_end_is_not_waited_for() {
    let (syncs, notes) = (Syncs::default(), Notes::default());
    let [slow, quick] = [syncs.begin(), syncs.begin()];
    syncs.end(quick, false, notes.of("quick"));
    let later = syncs.begin();
    syncs.end(slow, false, notes.of("slow"));
    assert_eq!(notes.take(), [("quick", false)]);
    syncs.end(later, true, notes.of("later"));
    assert_eq!(notes.take(), [("later", false), ("slow", true)]);
}

#[test]
fn a_failure_is_under_way_until_it_has_been_handed_over() {
    let (syncs, notes) = (Arc::new(Syncs::default()), Notes::default());
    let first = syncs.begin();
    let (inner, within) = (syncs.clone(), notes.clone());
    let hand_over = Box::new(move |_| {
        // Another thread, while the failure is on its way: begun after it, and well ended before.
        let second = inner.begin();
        inner.end(second, false, within.of("second"));
        assert_eq!(within.take(), []);
        within.of("first")(false);
    });
    syncs.end(first, true, hand_over);
    assert_eq!(notes.take(), [("first", false), ("second", true)]);
}

#[test]
fn a_waiting_caller_hears_of_a_failure_that_overtook_it() {
    let syncs = Syncs::default();
    let lost = || Err(os_error(libc::EIO));
    std::thread::scope(|scope| {
        let ((begun, has_begun), (go_on, may_end)) = (mpsc::channel(), mpsc::channel());
        let slow = move || {
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            lost()
        };
        let first = scope.spawn(|| syncs.in_order(slow));
        has_begun.recv().unwrap();
        let second = syncs.in_order(|| {
            go_on.send(()).unwrap();
            Ok(())
        });
        assert_eq!(second.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(first.join().unwrap().is_err());
    });
    assert!(syncs.in_order(|| Ok(())).is_ok());
    assert!(syncs.in_order(lost).is_err());
    assert!(syncs.in_order(|| Ok(())).is_ok());
}
