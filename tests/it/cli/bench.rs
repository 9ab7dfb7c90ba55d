//! Every work of `seawall bench` on a volume, as small as it goes. No time is asserted.

use serde_json::Value;

use crate::harness::{scratch, seawall};

/// The result of one work; nothing is left in the directory that it worked in.
#[track_caller]
fn measured(words: &str) -> Value {
    let dir = scratch();
    let path = dir.path().to_str().unwrap();
    let mut call: Vec<&str> = vec!["bench"];
    call.extend(words.split(' '));
    call.extend(["--json", "--dir", path, "--seconds", "1", "--turns", "1"]);
    call.extend(["--segment-size", "1M", "--backend", "portable"]);
    let result = seawall(&call).ok().json();
    assert_eq!(result["work"], words.split(' ').next().unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    result
}

#[track_caller]
fn assert_positive(result: &Value, fields: &[&str]) {
    for field in fields {
        let positive = result[field].as_f64().is_some_and(|value| value > 0.0);
        assert!(positive, "{field}: {result}");
    }
}

#[test]
fn writes_are_told_beside_appends_and_raw_writes() {
    let result = measured("write --volume-size 4M --working-set 1M --log-size 2M");
    assert_positive(&result, &["records_per_s", "append_ratio", "ratio"]);
    assert_positive(&result, &["overwrite_ratio", "bytes_written_per_byte"]);
    let once = measured("write --volume-size 4M --once 2M --log-size 2M");
    assert_positive(&once, &["records_per_s", "ratio", "image_bytes_per_byte"]);
}

#[test]
fn reads_are_told_for_every_source_and_depth() {
    let result = measured("image-read --image-size 2M --log-size 1M");
    assert_eq!(result["paths"].as_array().unwrap().len(), 14);
    assert_positive(&result, &["records_per_s", "floor_per_s", "ratio"]);
}

#[test]
fn captures_are_told_for_random_blocks_and_one_run() {
    let result = measured("checkpoint --volume-size 2M --touched 1M");
    assert_positive(&result, &["records_per_s", "sequential_records_per_s"]);
    assert_positive(&result, &["ratio", "sequential_ratio", "block_sums_per_s"]);
}

#[test]
fn every_volume_is_opened_by_a_process_of_its_own() {
    let result = measured("open --volume-size 8M,1T --log-size 1M,2M");
    let shapes = result["shapes"].as_array().unwrap();
    assert_eq!(shapes.len(), 4);
    for shape in shapes {
        assert_positive(
            shape,
            &["open_ms", "resident_bytes", "resident_bytes_before_open"],
        );
    }
    assert!(result["extra_open_ms"].is_number(), "{result}");
}

#[test]
fn writes_beside_a_pinned_base_are_told() {
    let result = measured("pinned --volume-size 4M --working-set 1M --log-size 2M");
    assert_positive(
        &result,
        &["unpinned_records_per_s", "ratio", "streamed_ratio"],
    );
}

#[test]
fn a_replica_that_catches_up_is_told_beside_a_connection_and_appends() {
    let result = measured("catch-up --log-size 2M");
    assert_eq!(result["records"], 512);
    assert_positive(
        &result,
        &["records_per_s", "append_mb_per_s", "tcp_mb_per_s"],
    );
    assert_positive(&result, &["ratio"]);
}

#[test]
fn a_second_rebuild_sends_the_chunks_that_changed() {
    let result = measured("rebuild --volume-size 8M --data 6M");
    assert_eq!(result["moved_bytes"], 6.0 * 1_048_576.0);
    assert_eq!(result["again_moved_bytes"], 1_048_576.0);
    let pair = [
        "foreground_per_s",
        "foreground_p99_us",
        "foreground_p99_ratio",
        "beside_share",
    ];
    assert_positive(&result, &pair);
    assert!(result["ratio"].is_number() || result["floor_lacking"].is_string());
}

#[test]
fn a_client_of_nbdkit_is_measured_or_the_reason_is_told_why_not() {
    let result = measured("nbd --volume-size 8M --callers 2");
    if !result["skipped"].is_string() {
        assert_eq!(result["shapes"].as_array().unwrap().len(), 4);
        assert_positive(
            &result,
            &["records_per_s", "floor_per_s", "raw_per_s", "ratio"],
        );
    }
}
