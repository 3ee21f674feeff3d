//! What the store promises, one test for each promise.

mod claims;
mod creates;
mod damage;
mod keys;
mod waiting;
