//! Lines of log from threads that never enter Python.

use std::io::Write as _;
use std::sync::OnceLock;

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
