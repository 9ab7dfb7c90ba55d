//! Figures as JSON, and as lines for people.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::bench::paired::Spread;
use crate::bench::turn::Turn;
use crate::error::Error;

/// Three digits behind the point.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A rate and its latencies, with the fields of the contract.
pub(super) fn rates(turn: &Turn, record_bytes: usize) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: f64| {
        fields.insert(name.into(), json!(rounded(value)));
    };
    put("records_per_s", turn.per_second());
    put("mb_per_s", megabytes(turn.per_second(), record_bytes));
    put("p50_us", turn.microseconds(500));
    put("p99_us", turn.microseconds(990));
    put("p999_us", turn.microseconds(999));
    put("max_us", turn.microseconds(1000));
    fields
}

/// Megabytes (10^6) of so many records.
#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
pub(super) fn megabytes(records: f64, record_bytes: usize) -> f64 {
    records * record_bytes as f64 / 1e6
}

/// The ratios of the rates of each round, under `name`, with both ends.
pub(super) fn put_spread(fields: &mut Map<String, Value>, name: &str, spread: Spread) {
    fields.insert(name.into(), json!(rounded(spread.median)));
    fields.insert(format!("{name}_min"), json!(rounded(spread.min)));
    fields.insert(format!("{name}_max"), json!(rounded(spread.max)));
}

/// How the rates of one contender compare with those of another, round by round.
pub(super) fn ratio(ours: &[Turn], theirs: &[Turn]) -> Spread {
    let rates = ours.iter().map(Turn::per_second);
    Spread::of_ratios(rates.zip(theirs.iter().map(Turn::per_second)))
}

/// How far the rates of a contender lie apart.
pub(super) fn drift(turns: &[Turn]) -> f64 {
    rounded(Spread::of(turns.iter().map(Turn::per_second)).drift())
}

/// Everything in `more` joins `fields`.
pub(super) fn join(fields: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        fields.extend(more);
    }
}

/// Prints lines in which `{name}` stands for a field; a line whose field is missing or null is
/// left out.
pub(super) fn print(fields: &Value, lines: &[&str], out: &mut dyn Write) -> Result<(), Error> {
    for line in lines {
        if let Some(line) = filled(line, fields) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn filled(line: &str, fields: &Value) -> Option<String> {
    let mut parts = line.split('{');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}')?;
        match &fields[name] {
            Value::Null => return None,
            Value::String(value) => text += value,
            other => text += &other.to_string(),
        }
        text += rest;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_its_field_is_left_out() {
        let fields = json!({"work": "append", "ratio": 0.5, "reader": null});
        let mut out = Vec::new();
        let lines = [
            "{work}: {ratio}x",
            "reader {reader}",
            "lost {nothing}",
            "end",
        ];
        print(&fields, &lines, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "append: 0.5x\nend\n");
    }
}
