//! The whole story in one run: `seawall demo` ends with equal copies, or says that they are not.

use serde_json::Value;

use crate::harness::{Ended, Random, scratch, seawall, write_file};

const COPIES: [&str; 3] = ["p", "r1", "r2"];

/// Runs the demo on 3 MiB of noise.
fn demo(flags: &[&str]) -> Ended {
    let dir = scratch();
    let input = dir.path().join("input");
    write_file(&input, &Random::new(11).bytes(3 << 20));
    let mut call = vec!["demo", "--json", "--input", input.to_str().unwrap()];
    call.extend(flags);
    seawall(&call)
}

fn outcomes(story: &Value) -> Vec<&str> {
    let steps = story["steps"].as_array().unwrap();
    let outcomes = steps.iter().map(|step| step["outcome"].as_str().unwrap());
    outcomes.collect()
}

#[test]
fn the_demo_plays_every_kind_of_recovery_and_ends_with_equal_copies() {
    let story = demo(&[]).ok().json();
    assert_eq!(story["equal"], true, "{story:#}");
    let copies = story["copies"].as_array().unwrap();
    assert_eq!(copies.len(), COPIES.len());
    for (copy, id) in copies.iter().zip(COPIES) {
        assert_eq!(copy["id"], id);
        assert_eq!(copy["lsn"], copies[0]["lsn"]);
        assert_eq!(copy["digest"], copies[0]["digest"]);
        assert_eq!(copy["digest"].as_str().unwrap().len(), 32);
    }
    let outcomes = outcomes(&story);
    for wanted in [
        "zero gap",
        "catch-up",
        "rebuild: snapshot + tail",
        "rebuild: full base",
        "truncate",
        "primary of epoch 2",
        "confirmed",
        "equal",
    ] {
        assert!(outcomes.contains(&wanted), "no {wanted} in {outcomes:?}");
    }
    for step in story["steps"].as_array().unwrap() {
        assert!(!step["proof"].as_str().unwrap().is_empty(), "{step}");
        for field in ["step", "after", "through", "records", "bytes", "seconds"] {
            assert!(!step[field].is_null(), "{field} is missing: {step}");
        }
    }
}

#[test]
fn one_changed_byte_of_any_copy_turns_the_exit_code_to_1() {
    for id in COPIES {
        let ended = demo(&["--tamper", id]);
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        let story = ended.json();
        assert_eq!(story["equal"], false);
        let difference = story["differences"][0].as_str().unwrap();
        assert!(difference.contains(&format!("copy {id}")), "{difference}");
    }
}

#[test]
fn the_demo_keeps_its_directory_only_when_asked_to() {
    let dir = scratch();
    let kept = dir.path().join("kept");
    let kept = kept.to_str().unwrap();
    demo(&["--dir", kept]).ok();
    for id in COPIES {
        let copy = format!("{kept}/{id}");
        seawall(&["verify", &copy]).ok();
    }
    demo(&["--dir", kept]).refused(2, kept);
}

#[test]
fn an_input_that_is_too_small_is_refused_and_no_directory_is_left() {
    let dir = scratch();
    let input = dir.path().join("input");
    write_file(&input, &[1; 4096]);
    seawall(&["demo", "--input", input.to_str().unwrap()]).refused(2, "input");
    seawall(&["demo", "--input", "/nowhere/input"]).refused(2, "/nowhere/input");
}
