//! An authority and the certificates that it signs, as files.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::write_file;

/// Writes `NAME.pem` and `NAME.key` into `dir` for each name, each good for the loopback address
/// and of one new authority, whose certificate is `ca.pem`.
pub(crate) fn issue(dir: &Path, names: &[&str]) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    write_file(&dir.join("ca.pem"), authority.pem().as_bytes());
    let issuer = Issuer::new(params, key);
    for name in names {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write_file(
            &dir.join(format!("{name}.pem")),
            certificate.pem().as_bytes(),
        );
        write_file(
            &dir.join(format!("{name}.key")),
            key.serialize_pem().as_bytes(),
        );
    }
}

/// The arguments that make a command `name`.
pub(crate) fn arguments(dir: &Path, name: &str) -> Vec<String> {
    let file = |name: String| dir.join(name).to_str().unwrap().to_owned();
    vec![
        "--tls-cert".into(),
        file(format!("{name}.pem")),
        "--tls-key".into(),
        file(format!("{name}.key")),
        "--tls-ca".into(),
        file("ca.pem".into()),
    ]
}
