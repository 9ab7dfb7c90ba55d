//! Other people's clients, and every alignment.

use super::client::{FUA, NO_HOLE};
use super::server::{Server, verify, volume};
use crate::harness::{Random, run, scratch, seawall, seeds};

const BLOCK: u64 = 4096;

#[test]
fn qemu_io_reads_what_it_wrote_before_and_after_a_restart() {
    let home = scratch();
    let reads = [
        "read -P 0xab 4k 60k",
        "read -P 0 0 4k",
        "read -P 0xcd 64k 4k",
        "read -P 0 1M 64k",
        "read -P 0xef 1088k 64k",
        "read -P 0 2M 1M",
        "read -P 0x11 3M 1M",
    ];
    let server = Server::start(home.path(), &["size=64M", "segment-size=1M"]);
    server.qemu_io(&[
        "write -P 0xab 0 64k",
        "write -f -P 0xcd 64k 4k",
        "flush",
        "write -z -u 0 4k",
        "write -P 0xef 1M 128k",
        "discard 1M 64k",
        "write -P 0x11 2M 2M",
        "write -z 2M 1M",
    ]);
    server.qemu_io(&reads);
    server.stop();
    verify(home.path());
    let server = Server::start(home.path(), &[]);
    server.qemu_io(&reads);
    server.stop();
    verify(home.path());
}

/// One random request, done to the server and to `model`.
fn step(client: &mut super::client::Client, model: &mut [u8], random: &mut Random) {
    let size = model.len() as u64;
    let offset = random.below(size - 1);
    let length = 1 + random.below((size - offset).min(40_000));
    let (first, end) = (to_index(offset), to_index(offset + length));
    let flags = if random.below(4) == 0 { FUA } else { 0 };
    let count = u32::try_from(length).unwrap();
    match random.below(6) {
        0..=2 => {
            let bytes = random.bytes(end - first);
            client.write(flags, offset, &bytes).unwrap();
            model[first..end].copy_from_slice(&bytes);
        }
        3 => {
            client.zero(flags | NO_HOLE, offset, count).unwrap();
            model[first..end].fill(0);
        }
        4 => {
            client.zero(flags, offset, count).unwrap();
            model[first..end].fill(0);
        }
        // Whole blocks inside the range read zero after a trim; what sticks out stays.
        _ => {
            client.trim(flags, offset, count).unwrap();
            let first = to_index(offset.next_multiple_of(BLOCK));
            let end = to_index((offset + length) / BLOCK * BLOCK);
            if first < end {
                model[first..end].fill(0);
            }
        }
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

#[test]
fn requests_of_any_alignment_leave_what_a_flat_array_would_hold() {
    let home = scratch();
    let mut model = vec![0; 256 << 10];
    let mut server = Server::start(home.path(), &["size=256k", "segment-size=1M"]);
    for seed in seeds() {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut client = server.connect();
        for _ in 0..150 {
            step(&mut client, &mut model, &mut random);
            let offset = random.below(model.len() as u64);
            let rest = &model[to_index(offset)..];
            let rest = &rest[..rest.len().min(9000)];
            assert!(
                client.read(offset, rest.len()).unwrap() == rest,
                "at {offset}"
            );
        }
        drop(client);
        server.stop();
        verify(home.path());
        server = Server::start(home.path(), &[]);
        let found = server.contents(home.path());
        assert_eq!(found.len(), model.len());
        let first = (0..model.len()).find(|n| found[*n] != model[*n]);
        assert_eq!(first, None, "where the restarted server differs");
    }
}

#[test]
fn nbdcopy_brings_an_image_in_and_out_unchanged() {
    let home = scratch();
    let (image, copy) = (home.path().join("in.img"), home.path().join("out.img"));
    let mut bytes = Random::new(11).bytes(8 << 20);
    bytes[1 << 20..3 << 20].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let server = Server::start(home.path(), &["size=8M", "segment-size=1M"]);
    let uri = server.uri();
    run("nbdcopy", &["--flush", image.to_str().unwrap(), &uri]).ok();
    run("nbdcopy", &[uri.as_str(), copy.to_str().unwrap()]).ok();
    assert!(std::fs::read(&copy).unwrap() == bytes);
    let compare = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        &uri,
        image.to_str().unwrap(),
    ];
    run("qemu-img", &compare).ok();
    server.stop();
    verify(home.path());
}

#[test]
fn fio_verifies_random_writes_sixteen_at_a_time() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=16M", "segment-size=1M"]);
    let ended = run(
        "fio",
        &[
            "--name=v",
            "--ioengine=nbd",
            &format!("--uri={}", server.uri()),
            "--rw=randwrite",
            "--bs=4k",
            "--size=16m",
            "--iodepth=16",
            "--fsync=32",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--loops=2",
        ],
    )
    .ok();
    assert!(ended.stdout.contains("err= 0"), "{ended:#?}");
    server.stop();
    verify(home.path());
}

#[test]
fn status_answers_while_the_volume_is_served() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=1M", "segment-size=1M"]);
    let mut client = server.connect();
    client.write(FUA, 0, &[7; 4096]).unwrap();
    let status = seawall(&[
        "status".as_ref(),
        volume(home.path()).as_os_str(),
        "--json".as_ref(),
    ]);
    let status = status.ok().json();
    assert_eq!(status["live"], true, "{status:#}");
    assert_eq!(status["durable"], status["head"], "{status:#}");
    assert!(status["head"].as_u64() >= Some(1), "{status:#}");
    drop(client);
    server.stop();
}
