//! The stages against a real HTTP server on loopback, which follows a script.

mod faults;
mod kit;
mod runs;
mod stages;
