//! Wires the edges: builds them, connects them, starts and stops them in order. The only module that may name all.

pub mod admin;
mod authorities;
pub mod certificates;
pub mod config;
pub mod control;
pub mod enrol;
pub mod figures;
pub mod handover;
mod inputs;
mod leaving;
pub mod node;
pub mod plugin;
pub mod report;
pub mod routes;
pub mod signs;
pub mod why;
