//! Points in time as people write and read them.

use std::time::{Duration, UNIX_EPOCH};

/// Nanoseconds since 1970 of `2026-01-31T12:00:00Z`, the same with a space and without Z, or of
/// seconds since 1970.
///
/// # Errors
/// A text for the person who typed it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let bad = || format!("{text} is no time; write 2026-01-31T12:00:00Z or seconds since 1970");
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).map_err(|_| bad());
    if let Ok(seconds) = text.parse::<f64>() {
        return nanoseconds(Duration::try_from_secs_f64(seconds).map_err(|_| bad())?);
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| bad())?;
    nanoseconds(time.duration_since(UNIX_EPOCH).map_err(|_| bad())?)
}

/// The same for people, in UTC to the millisecond.
pub(crate) fn show(nanoseconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => nanoseconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_text_or_as_seconds() {
        let second = 1_000_000_000;
        assert_eq!(parse("1970-01-01T00:00:05Z"), Ok(5 * second));
        assert_eq!(parse("1970-01-01 00:00:05"), Ok(5 * second));
        assert_eq!(parse("5.5"), Ok(5 * second + second / 2));
        assert_eq!(show(5 * second), "1970-01-01T00:00:05.000Z");
        for text in ["yesterday", "-1", "1969-12-31T23:59:59Z", "nan", "1e300"] {
            assert!(parse(text).unwrap_err().contains(text), "{text}");
        }
        assert!(show(u64::MAX).starts_with("2554"));
    }
}
