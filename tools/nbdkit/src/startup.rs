//! From the parameters to an open volume: what is checked before the fork, what is opened after it.

use std::path::Path;
use std::sync::Arc;

use seawall_recovery::{Primary, PrimaryOptions, Security, check_address};
use seawall_snapshot::{Access, CreateOptions, Volume};
use seawall_wal::disk::{Choice, Disk, open_backend};
use seawall_wal::{
    BlockSize, Error as WalError, Geometry, LossReport, Meta, Role, ScanEnd, SystemClock,
};

use crate::config::Config;
use crate::engine::{Alone, Engine, Replicated};
use crate::error::Error;
use crate::export::Export;

const SEGMENT_BYTES: u64 = 64 << 20;

/// An open export, and what its operator should know.
#[derive(Debug)]
pub struct Opened {
    /// What is served.
    pub export: Export,
    /// Damage found while opening, or mended then, as one line.
    pub warning: Option<String>,
}

/// Creates the volume if there is none, and finds out before nbdkit forks whether it can be
/// served, because nobody sees an error after the fork (N2). Leaves nothing open and no thread.
///
/// # Errors
/// Everything a user can get wrong: [`Error::NothingThere`], [`Error::OtherShape`],
/// [`Error::PartialBlock`], [`Error::Recovery`] for a replica address, and [`Error::Volume`] for
/// a volume in use, a replica, or I/O.
pub fn check(config: &Config) -> Result<(), Error> {
    let disk = open_backend(Choice::Auto)?;
    let dir = config.dir()?;
    let security = config.security(&disk)?;
    for replica in &config.replicas {
        check_address(&replica.address, &security)?;
    }
    match Meta::open(&disk, dir, false) {
        Ok(meta) => check_shape(config, dir, meta.get().geometry)?,
        Err(error) if is_absent(&error) => create(config, &disk, dir)?,
        Err(error) => return Err(error.into()),
    }
    let (volume, _) = Volume::open(&disk, dir, &SystemClock::new(), Access::Primary)?;
    Ok(volume.close()?)
}

/// Opens the volume and starts serving its replicas.
///
/// # Errors
/// [`Error::Volume`], [`Error::Recovery`].
pub fn open(config: &Config) -> Result<Opened, Error> {
    let disk = open_backend(Choice::Auto)?;
    let clock = SystemClock::new();
    let dir = config.dir()?;
    let options = primary_options(config, config.security(&disk)?);
    let (volume, report) = Volume::open(&disk, dir, &clock, Access::Primary)?;
    let (volume, warning) = match &report.end {
        ScanEnd::Clean | ScanEnd::Torn { .. } => (volume, None),
        ScanEnd::Damaged(loss) => heal(volume, loss, &options)?,
    };
    let engine: Box<dyn Engine> = match config.replicas.is_empty() {
        true => Box::new(Alone::start(volume)?),
        false => {
            let primary = Primary::start(&disk, &clock, volume, options)?;
            Box::new(Replicated::new(primary))
        }
    };
    Ok(Opened {
        export: Export::new(engine),
        warning,
    })
}

/// Fetches what the log lost from the replicas. A volume that stays damaged is served all the same,
/// and its operator told.
fn heal(
    volume: Arc<Volume>,
    loss: &LossReport,
    options: &PrimaryOptions,
) -> Result<(Arc<Volume>, Option<String>), Error> {
    let dir = volume.dir().to_owned();
    let line = damage_line(&dir, loss);
    if options.replicas.is_empty() {
        return Ok((volume, Some(line)));
    }
    let error = match Primary::heal(&volume, options) {
        Ok(healed) => {
            let (count, dir) = (healed.records, dir.display());
            let line = format!("{dir}: {count} records that its log had lost came back");
            return Ok((healed.volume, Some(line)));
        }
        Err(error) => error,
    };
    let disk = Arc::clone(volume.log().disk());
    drop(volume);
    let (volume, _) = Volume::open(&disk, &dir, &SystemClock::new(), Access::Primary)?;
    Ok((volume, Some(format!("{line}; {error}"))))
}

fn damage_line(dir: &Path, loss: &LossReport) -> String {
    format!(
        "{}: damage at or below LSN {}, serving read-only through LSN {}; \
         run seawall verify and rebuild it from a replica",
        dir.display(),
        loss.durable,
        loss.applied
    )
}

fn primary_options(config: &Config, security: Security) -> PrimaryOptions {
    PrimaryOptions {
        replicas: config.replicas.clone(),
        ack: config.ack(),
        security,
        ..PrimaryOptions::default()
    }
}

fn is_absent(error: &WalError) -> bool {
    match error {
        WalError::NotAVolume { .. } => true,
        WalError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn create(config: &Config, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    let size = config.size.ok_or_else(|| Error::NothingThere {
        path: dir.to_owned(),
    })?;
    let options = CreateOptions {
        volume: None,
        geometry: new_geometry(config, size)?,
        role: Role::Primary,
    };
    Ok(Volume::create(disk, dir, options)?)
}

fn new_geometry(config: &Config, size: u64) -> Result<Geometry, Error> {
    let block_size = match config.block_size {
        Some(bytes) => BlockSize::from_bytes(bytes)?,
        None => BlockSize::DEFAULT,
    };
    let block = block_size.bytes();
    if !size.is_multiple_of(block) {
        return Err(Error::PartialBlock { size, block });
    }
    Ok(Geometry {
        block_size,
        blocks: size / block,
        segment_bytes: config.segment_size.unwrap_or(SEGMENT_BYTES),
    })
}

fn check_shape(config: &Config, dir: &Path, geometry: Geometry) -> Result<(), Error> {
    let shape = [
        ("size", config.size, geometry.bytes()),
        ("block-size", config.block_size, geometry.block_size.bytes()),
        ("segment-size", config.segment_size, geometry.segment_bytes),
    ];
    for (key, asked, found) in shape {
        match asked {
            Some(asked) if asked != found => {
                let path = dir.to_owned();
                return Err(Error::OtherShape {
                    path,
                    key,
                    asked,
                    found,
                });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let mut config = Config::new();
        for (key, value) in pairs {
            config.set(key, value).unwrap();
        }
        config
    }

    #[test]
    fn a_new_volume_has_the_shape_asked_for() {
        let plain = new_geometry(&config(&[]), 10 << 30).unwrap();
        assert_eq!(plain.bytes(), 10 << 30);
        assert_eq!(plain.block_size, BlockSize::DEFAULT);
        assert_eq!(plain.segment_bytes, SEGMENT_BYTES);
        let small = config(&[("block-size", "512"), ("segment-size", "1M")]);
        let small = new_geometry(&small, 1536).unwrap();
        assert_eq!((small.blocks, small.segment_bytes), (3, 1 << 20));
    }

    #[test]
    fn a_size_of_half_a_block_is_refused() {
        assert!(matches!(
            new_geometry(&config(&[]), 4097),
            Err(Error::PartialBlock {
                size: 4097,
                block: 4096
            })
        ));
    }

    #[test]
    fn an_existing_volume_is_served_only_in_its_own_shape() {
        let dir = Path::new("/v");
        let geometry = new_geometry(&config(&[]), 1 << 20).unwrap();
        check_shape(&config(&[]), dir, geometry).unwrap();
        check_shape(
            &config(&[("size", "1M"), ("block-size", "4k")]),
            dir,
            geometry,
        )
        .unwrap();
        assert!(matches!(
            check_shape(&config(&[("size", "2M")]), dir, geometry),
            Err(Error::OtherShape {
                key: "size",
                asked: 0x20_0000,
                found: 0x10_0000,
                ..
            })
        ));
        assert!(matches!(
            check_shape(&config(&[("block-size", "512")]), dir, geometry),
            Err(Error::OtherShape {
                key: "block-size",
                ..
            })
        ));
    }
}
