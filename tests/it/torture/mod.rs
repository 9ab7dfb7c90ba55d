//! Random work on a simulated disk that crashes: the volume is compared with a model after each
//! crash. `SEAWALL_SEEDS` says how many seeds run; a failure prints the seed that repeats it.

mod crash_matrix;
mod flips;
mod model;
mod random_crashes;
mod volume;
