//! Lines of log from threads that never enter Python.

use std::io::Write as _;
use std::sync::OnceLock;

use crate::sys::boottime_ns;

static PROCESS: OnceLock<String> = OnceLock::new();

/// Lines get time, level and this name of the process, as those of Python have (`segue.logs`).
///
/// Until then, and in programs that never say it, they begin with `segue: `.
pub fn name_log(process: &str) {
    let _ = PROCESS.set(process.to_owned());
}

/// One line on stderr, where the process's own log goes, whatever is quoted in it.
///
/// A log that cannot be written (its disk may be full) stops nobody.
pub(crate) fn log(text: std::fmt::Arguments<'_>) {
    let line = match PROCESS.get() {
        None => format!("segue: {}\n", one_line(&text.to_string())),
        Some(process) => {
            let (stamp, what) = (stamp(), text.to_string());
            format!("{stamp} WARNING {process} segue.native event=native what={what:?}\n")
        }
    };
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Lines about what a peer can make happen as often as it likes: one in a while, with how many were
/// left out.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// CLOCK_BOOTTIME.
    last_ns: Option<u64>,
    left_out: u64,
}

impl Seldom {
    /// Between two lines.
    const PAUSE_NS: u64 = 10_000_000_000;

    pub(crate) fn log(&mut self, text: std::fmt::Arguments<'_>) {
        match self.counts(boottime_ns()) {
            None => {}
            Some(0) => log(text),
            Some(left_out) => log(format_args!("{text} (and {left_out} times since the last)")),
        }
    }

    /// Whether a line is due, and how many were left out before it.
    fn counts(&mut self, now_ns: u64) -> Option<u64> {
        let is_early = |last_ns| now_ns < last_ns + Self::PAUSE_NS;
        if self.last_ns.is_some_and(is_early) {
            self.left_out += 1;
            return None;
        }
        self.last_ns = Some(now_ns);
        Some(std::mem::take(&mut self.left_out))
    }
}

fn one_line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Local time: `2025-11-22T12:00:00.123`.
fn stamp() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let seconds = now.as_secs() as libc::time_t;
    // SAFETY: all zero is a `tm`; both pointers are valid for the call.
    let time = unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut time);
        time
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}",
        time.tm_year + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        now.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_of_seldom() {
        let (mut seldom, pause) = (Seldom::default(), Seldom::PAUSE_NS);
        assert_eq!(seldom.counts(5), Some(0));
        assert_eq!(seldom.counts(6), None);
        assert_eq!(seldom.counts(4 + pause), None);
        assert_eq!(seldom.counts(5 + pause), Some(2));
        assert_eq!(seldom.counts(5 + 2 * pause), Some(0));
    }
}
