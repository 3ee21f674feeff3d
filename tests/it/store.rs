//! What the store promises, one test for each promise.

mod backups;
mod claims;
mod creates;
mod damage;
mod files;
mod keys;
mod leases;
mod log;
mod operators;
mod pairs;
mod queues;
mod restarts;
mod retention;
mod series;
mod sharing;
mod waiting;
