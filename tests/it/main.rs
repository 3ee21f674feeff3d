//! The promises of tallyd, one module each; see CONTRIBUTING.md.

mod tidy;
