//! A volume under real work: every state that it gives is the replay of what it acknowledged.

mod file_system;
mod record;
