//! The pure rooms of deskgate, for the fuzz targets: the same files, reached by links.
//!
//! A `#[path]` would not do: rustc takes a file so named for a `mod.rs` and looks for its
//! submodules beside it.

pub mod auth;
pub mod config;
pub mod route;

/// The input without the newline that ends a seed in a text file.
#[must_use]
pub fn seed(data: &[u8]) -> &[u8] {
    data.strip_suffix(b"\n").unwrap_or(data)
}
