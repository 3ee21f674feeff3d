//! What the store promises, one test for each promise.

mod damage;
