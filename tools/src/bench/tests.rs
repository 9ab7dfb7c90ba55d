//! The whole command, on a small log.

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Bench {
    #[command(flatten)]
    args: Args,
}

fn bench(words: &str) -> Result<String, Error> {
    let words = ["bench"].into_iter().chain(words.split(' '));
    let bench = Bench::try_parse_from(words).expect("the words are known");
    let mut out = Vec::new();
    assert_eq!(run(&bench.args, &mut out)?, Exit::Fine);
    Ok(String::from_utf8(out).unwrap())
}

/// One short run with small segments.
fn measured(words: &str) -> Value {
    let small = "--seconds 1 --turns 2 --segment-size 1M --backend portable --json";
    serde_json::from_str(&bench(&format!("{words} {small}")).unwrap()).unwrap()
}

#[track_caller]
fn assert_contract(result: &Value, work: &str, more: &[&str]) {
    let rates = [
        "records_per_s",
        "mb_per_s",
        "p50_us",
        "p99_us",
        "p999_us",
        "floor_per_s",
        "ratio",
        "ratio_min",
        "ratio_max",
    ];
    for field in rates.iter().chain(more) {
        let positive = result[field].as_f64().is_some_and(|value| value > 0.0);
        assert!(positive, "{field}: {result}");
    }
    for field in [
        "syncs_per_record",
        "bytes_written_per_byte",
        "callers",
        "in_flight",
    ] {
        assert!(result[field].is_number(), "{field}: {result}");
    }
    assert_eq!(result["work"], work);
    assert_eq!(result["backend"], "portable");
    assert!(
        result["device"]
            .as_str()
            .is_some_and(|device| device != "unknown")
    );
    let at = |field: &str| result[field].as_f64().unwrap();
    assert!(at("ratio_min") <= at("ratio") && at("ratio") <= at("ratio_max"));
    assert!(at("p50_us") <= at("p99_us") && at("p99_us") <= at("p999_us"));
}

#[test]
fn a_short_run_of_append_reports_every_field_of_the_contract() {
    let result = measured("append --callers 2 --in-flight 4 --retained 2M --reader");
    let more = [
        "floor_p999_us",
        "p999_ratio",
        "cold_records_per_s",
        "cold_bytes_written_per_byte",
        "reader_mb_per_s",
        "syncs_per_record",
        "cpu_s_per_gb",
    ];
    assert_contract(&result, "append", &more);
    assert_eq!(
        (&result["callers"], &result["in_flight"]),
        (&2.into(), &4.into())
    );
    let written = result["bytes_written_per_byte"].as_f64().unwrap();
    assert!(written >= 1.0, "{result}");
}

#[test]
fn volatile_appends_share_their_sync() {
    let result = measured("append --volatile 64 --retained 2M --size 512");
    assert_contract(&result, "append", &[]);
    let syncs = result["syncs_per_record"].as_f64().unwrap();
    assert!(syncs < 0.5, "{result}");
}

#[test]
fn a_short_run_of_read_reports_every_field_of_the_contract() {
    let result = measured("read --callers 2 --log-size 3M");
    assert_contract(&result, "read", &["range_floor_per_s", "log_bytes"]);
    let paths = result["paths"].as_array().unwrap();
    let mut named: Vec<String> = paths
        .iter()
        .map(|path| format!("{} {} {}", path["path"], path["access"], path["cache"]))
        .collect();
    named.sort();
    named.dedup();
    assert_eq!(named.len(), 8);
    for path in paths {
        for field in ["records_per_s", "mb_per_s", "p50_us", "ratio"] {
            assert!(
                path[field].as_f64().is_some_and(|value| value > 0.0),
                "{path}"
            );
        }
    }
}

#[test]
fn a_short_run_of_replay_reports_every_field_of_the_contract() {
    let result = measured("replay --log-size 3M");
    let more = [
        "cold_records_per_s",
        "cold_floor_per_s",
        "cold_ratio",
        "open_after_crash_ms",
        "open_after_close_ms",
        "first_append_after_crash_ms",
        "resident_bytes",
    ];
    assert_contract(&result, "replay", &more);
    assert!(
        result["records"]
            .as_u64()
            .is_some_and(|records| records >= 768)
    );
}

#[test]
fn without_json_every_work_prints_its_lines_for_people() {
    let small = "--seconds 1 --turns 1 --segment-size 1M";
    for (words, expected) in [
        ("append --retained 1M", "bytes written per byte"),
        ("read --log-size 1M", "warm range by pread"),
        ("replay --log-size 1M", "after a crash"),
    ] {
        let text = bench(&format!("{words} {small}")).unwrap();
        assert!(text.contains(expected) && !text.contains('{'), "{text}");
    }
}

#[test]
fn sizes_that_no_log_takes_and_directories_that_take_no_files_are_wrong_usage() {
    for words in [
        "append --size 1000",
        "append --size 512K --segment-size 1M",
        "read --segment-size 2G",
        "replay --size 2M",
        "append --dir /proc",
        "read --dir /nowhere/at/all",
    ] {
        let error = bench(words).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unusable, "{words}: {error}");
    }
}

#[test]
fn wrong_words_are_refused_before_anything_runs() {
    for words in [
        "append --callers 0",
        "append --in-flight 0",
        "append --backend magnetic",
        "append --volatile 8 --in-flight 2",
        "append --seconds soon",
        "read --reader",
        "rewind",
        "replay --turns 0",
    ] {
        let words = ["bench"].into_iter().chain(words.split(' '));
        let error = Bench::try_parse_from(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
