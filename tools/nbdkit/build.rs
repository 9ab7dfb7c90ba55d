//! Keeps the library in memory until the process ends, although nbdkit unloads it: a thread of the
//! engine that is just returning must not lose the code under its feet.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
}
