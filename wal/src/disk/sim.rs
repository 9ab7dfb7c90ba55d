//! The simulated disk (stub).
