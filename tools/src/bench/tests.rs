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

/// A volume of 4 MiB whose background captures every few hundred writes.
const SMALL_VOLUME: &str = "--callers 4 --volume-size 4M --log-size 2M";

#[test]
fn a_short_run_of_write_reports_every_field_of_the_contract() {
    let result = measured(&format!("write {SMALL_VOLUME} --working-set 256K"));
    let more = [
        "append_ratio",
        "writing_ratio",
        "writing_append_ratio",
        "settled_records_per_s",
        "append_per_s",
        "overwrite_ratio",
        "image_bytes_per_byte",
        "sum_bytes_per_byte",
        "log_bytes_per_byte",
        "log_passes",
        "retained_bytes_most",
        "delayed_above_us",
        "resident_bytes",
    ];
    assert_contract(&result, "write", &more);
    let at = |field: &str| result[field].as_f64().unwrap();
    assert!(at("ratio") <= at("writing_ratio"), "{result}");
    assert!(at("log_bytes_per_byte") >= 1.0, "{result}");
}

#[test]
fn a_run_that_writes_each_block_once_writes_it_to_the_image_once() {
    let result = measured(&format!("write {SMALL_VOLUME} --once 2M"));
    assert_contract(&result, "write", &["overwrite_ratio"]);
    assert_eq!(result["order"], "once");
    let records = result["records_per_s"].as_f64().unwrap();
    assert!(records > 0.0);
    // What the last capture left in the log has not reached the image yet.
    let image = result["image_bytes_per_byte"].as_f64().unwrap();
    // All of the volume, twice as large, gets its places with what is written first.
    assert!(image > 0.0 && image <= 3.2, "{result}");
}

#[test]
fn a_short_run_of_image_read_reports_every_source_at_every_depth() {
    let result = measured("image-read --callers 3 --image-size 3M --log-size 1M");
    assert_contract(&result, "image-read", &["log_bytes", "floor_p99_us"]);
    let paths = result["paths"].as_array().unwrap();
    let mut named: Vec<String> = paths
        .iter()
        .map(|path| format!("{} {} {}", path["source"], path["cache"], path["callers"]))
        .collect();
    named.sort();
    named.dedup();
    assert_eq!(named.len(), 14);
    for path in paths {
        for field in ["records_per_s", "p50_us", "ratio"] {
            let positive = path[field].as_f64().is_some_and(|value| value > 0.0);
            assert!(positive, "{field}: {path}");
        }
    }
    let first = (
        &paths[0]["source"],
        &paths[0]["cache"],
        &paths[0]["callers"],
    );
    assert_eq!(first, (&"image".into(), &"sums".into(), &3.into()));
    assert_eq!(result["records_per_s"], paths[0]["records_per_s"]);
}

#[test]
fn a_short_run_of_checkpoint_reports_both_sets_and_what_sums_cost() {
    let result = measured("checkpoint --callers 2 --volume-size 4M --touched 1M");
    let more = [
        "sequential_records_per_s",
        "sequential_floor_per_s",
        "sequential_ratio",
        "digest_of_head_ms",
        "block_sums_per_s",
        "block_sum_share",
        "sum_bytes_per_byte",
    ];
    assert_contract(&result, "checkpoint", &more);
    for field in [
        "bytes_written_per_byte",
        "sequential_bytes_written_per_byte",
    ] {
        let written = result[field].as_f64().unwrap();
        assert!(
            written >= 1.0,
            "a capture wrote less than its blocks: {result}"
        );
    }
}

#[test]
fn a_short_run_of_pinned_reports_an_idle_and_a_streamed_base() {
    let result = measured(&format!("pinned {SMALL_VOLUME} --working-set 1M"));
    let more = [
        "unpinned_records_per_s",
        "writing_ratio",
        "p99_ratio",
        "streamed_records_per_s",
        "streamed_ratio",
        "streamed_p99_ratio",
        "stream_mb_per_s",
    ];
    for field in more {
        let positive = result[field].as_f64().is_some_and(|value| value > 0.0);
        assert!(positive, "{field}: {result}");
    }
    assert_eq!(result["work"], "pinned");
}

// D15
#[test]
fn a_short_run_of_decide_reports_a_catch_up_of_the_whole_log_and_its_full_proof() {
    let result = measured("decide --log-size 3M");
    let more = [
        "records_per_s",
        "p50_us",
        "p99_us",
        "first_decision_us",
        "prove_full_cold_ms",
        "prove_full_ms",
        "prove_full_mb_per_s",
    ];
    for field in more {
        let positive = result[field].as_f64().is_some_and(|value| value > 0.0);
        assert!(positive, "{field}: {result}");
    }
    assert_eq!(
        (&result["work"], &result["outcome"]),
        (&"decide".into(), &"catch-up".into())
    );
    let records = (3 << 20) / 4096;
    assert_eq!(result["records"], records);
    let proof = result["proof"].as_str().unwrap();
    assert!(proof.contains(&format!("needs 1..{records}")), "{proof}");
}

#[test]
fn without_json_every_work_prints_its_lines_for_people() {
    let small = "--seconds 1 --turns 1 --segment-size 1M";
    for (words, expected) in [
        ("append --retained 1M", "bytes written per byte"),
        ("read --log-size 1M", "warm range by pread"),
        ("replay --log-size 1M", "after a crash"),
        ("decide --log-size 1M", "log of 256 records, 1048576 bytes"),
        (
            "write --volume-size 4M --working-set 1M --log-size 2M",
            "own appends",
        ),
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
        "write --size 2K",
        "image-read --image-size 1M --log-size 1M",
        "checkpoint --size 8K",
        "checkpoint --volume-size 1M --touched 2M",
        "open --volume-size 1M --log-size 2M",
        "write --volume-size 1M --working-set 2M",
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
        "write --once 1M --working-set 1M",
    ] {
        let words = ["bench"].into_iter().chain(words.split(' '));
        let error = Bench::try_parse_from(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
