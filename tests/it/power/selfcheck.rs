//! The recorder sees the barriers: what a file system was asked to sync is there, and only that.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::{Device, Kind, Record, Tally, kinds, setting};
use crate::harness::Random;

const FILES: u64 = 40;

fn name(file: u64) -> String {
    format!("f{file}")
}

/// Writes file after file, and syncs every second one. The names are durable before.
fn record(kind: Kind) -> (Record, usize) {
    let device = Device::formatted(kind);
    let mut files = Vec::new();
    for file in 0..FILES {
        let made = File::create(device.path(&name(file))).unwrap();
        made.sync_all().unwrap();
        files.push(made);
    }
    File::open(device.path("")).unwrap().sync_all().unwrap();
    let begin = device.position();
    for (file, mut made) in (0..).zip(files) {
        made.write_all(&[1; 8192]).unwrap();
        if file % 2 == 0 {
            made.sync_all().unwrap();
            device.note(&format!("kept {file} 1\n"));
        }
    }
    (device.off(), begin)
}

/// Which files have all of their content.
fn whole(device: &Device) -> Vec<bool> {
    let is_whole = |file| {
        let mut bytes = [0; 8192];
        let opened = File::open(device.path(&name(file))).unwrap();
        opened.read_exact_at(&mut bytes, 0).is_ok() && bytes == [1; 8192]
    };
    (0..FILES).map(is_whole).collect()
}

/// Files whose sync was noted.
fn kept(device: &Device) -> Vec<u64> {
    let notes = std::fs::read_to_string(device.notes()).unwrap();
    let files = notes.lines().filter_map(|line| line.split(' ').nth(1));
    files.map(|file| file.parse().unwrap()).collect()
}

#[test]
fn a_synced_file_outlives_every_cut_and_an_unsynced_one_does_not() {
    for &kind in kinds() {
        let (record, begin) = record(kind);
        let mut random = Random::new(setting("SEAWALL_POWER_SEED", 1));
        let (mut tally, mut lost, mut held) = (Tally::default(), 0, 0);
        for _ in 0..setting("SEAWALL_POWER_CUTS", 4) {
            let span = (record.length() + 1 - begin) as u64;
            let at = begin + usize::try_from(random.below(span)).unwrap();
            tally.cut(&record, at, 0, (kind, &mut random), &mut |device| {
                let whole = whole(device);
                for file in kept(device) {
                    assert!(
                        whole[usize::try_from(file).unwrap()],
                        "file {file} was synced"
                    );
                    held += 1;
                }
                lost += whole
                    .iter()
                    .skip(1)
                    .step_by(2)
                    .filter(|whole| !**whole)
                    .count();
            });
        }
        println!("{}: {held} held, {lost} lost, {tally:?}", kind.name());
        assert!(held > 0 && lost > 0, "{held} {lost}");
    }
}

#[test]
fn a_device_that_drops_flushes_loses_synced_files() {
    for &kind in kinds() {
        let (record, begin) = record(kind);
        let mut device = Device::on(record.cut_of_a_liar(begin, record.length()));
        device.mount(kind).unwrap_or_else(|e| panic!("{e}"));
        let whole = whole(&device);
        assert_eq!(kept(&device).len() as u64, FILES / 2);
        assert!(!whole[0], "a sync that the device dropped cannot have held");
    }
}
